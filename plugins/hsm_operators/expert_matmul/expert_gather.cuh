// Kernel of ExpertMatMul and ExpertMatMulSum for a few tokens, as when decoding: each token reads the matrices of its
// own experts.
//
//   flops  2·N·H·k·D·f
//   bytes  e·N·H·k·D·f, the chosen matrices once a token
//   bound  memory: 2/e flops a byte
//
// A block owns one token and eight vectors of output columns (of one head, or of all heads in the sum form); 32 threads
// share a column and take every 32nd row of the matrices. Their sums are added in the order of their numbers.
//
// Shared memory: 8 KiB for 2-byte elements, 4 KiB for float32, 1 KiB without whole vectors. Registers (ptxas 13.0; no
// spills): 54-80.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/expert_matmul/cuda.cuh"
#include "hsm_operators/expert_matmul/expert_routing.cuh"

namespace hsm::cuda {

inline constexpr int kGatherVectors = 8;
inline constexpr int kGatherParts = 32;
inline constexpr int kGatherThreads = kGatherVectors * kGatherParts;

// sums += gate · x · matrix for the rows part, part + kGatherParts, …; `matrix` points at the thread's columns.
template <int kCount, typename X, typename T>
__device__ __forceinline__ void add_expert(int inputs, int outputs, const X* x, const T* matrix, int part, float gate,
                                           float (&sums)[kCount]) {
  float own[kCount] = {};
#pragma unroll 4
  for (int row = part; row < inputs; row += kGatherParts) {
    const float value = to_float(x[row]);
    const auto weights = *reinterpret_cast<const Vector<T, kCount>*>(matrix + static_cast<std::int64_t>(row) * outputs);
#pragma unroll
    for (int i = 0; i < kCount; ++i) own[i] = fmaf(value, to_float(weights.values[i]), own[i]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = fmaf(gate, own[i], sums[i]);
}

// Adds the sums of the threads that share columns, in the order of their numbers; all threads of the block call it.
// Returns whether this thread has the sum of column threadIdx.x. `partial` is shared memory.
template <int kCount>
__device__ __forceinline__ bool sum_of_parts(const float (&sums)[kCount], float* partial, float& sum) {
  constexpr int kColumns = kGatherVectors * kCount;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    partial[thread / kGatherVectors * kColumns + thread % kGatherVectors * kCount + i] = sums[i];
  }
  __syncthreads();
  if (thread >= kColumns) return false;
  sum = 0.0f;
  for (int i = 0; i < kGatherParts; ++i) sum += partial[i * kColumns + thread];
  return true;
}

// All chosen experts of the block's heads.
template <typename T, int kCount>
__device__ __forceinline__ void add_heads(const ExpertMatMulParameters<T>& p, std::int64_t token, int first_head,
                                          int column, int part, float (&sums)[kCount]) {
  for (int head = first_head; head < first_head + p.heads_per_block; ++head) {
    const float* logits = p.logits + (token * p.heads + head) * p.experts;
    const T* x = p.x + token * p.x_token + head * p.x_head;
    const Rank lowest = lowest_chosen(logits, p.experts, p.active);
    for (int expert = 0; expert < p.experts; ++expert) {
      const float gate = gate_of(logits[expert], expert, lowest);
      if (gate == 0.0f) continue;
      const std::int64_t matrix = (static_cast<std::int64_t>(head) * p.experts + expert) * p.inputs * p.outputs;
      add_expert(p.inputs, p.outputs, x, p.weight + matrix + column, part, gate, sums);
    }
  }
}

// Grid: tokens × tiles of columns, heads (1 in the sum form).
template <typename T, int kCount>
__global__ void __launch_bounds__(kGatherThreads, 3) expert_matmul_gather(const ExpertMatMulParameters<T> p) {
  constexpr int kColumns = kGatherVectors * kCount;
  HSM_DYNAMIC_SHARED(float, partial);  // (kGatherParts, kColumns)
  const auto tiles = static_cast<unsigned>((p.outputs + kColumns - 1) / kColumns);
  const std::int64_t token = blockIdx.x / tiles;
  const int first_column = static_cast<int>(blockIdx.x % tiles) * kColumns;
  const int head = static_cast<int>(blockIdx.y) * p.heads_per_block;
  const int thread = static_cast<int>(threadIdx.x);
  const int place = thread % kGatherVectors * kCount;
  const int part = thread / kGatherVectors;
  float sums[kCount] = {};
  if (first_column + place < p.outputs) add_heads<T, kCount>(p, token, head, first_column + place, part, sums);
  float sum;
  if (!sum_of_parts<kCount>(sums, partial, sum) || first_column + thread >= p.outputs) return;
  p.y[token * p.y_token + head * p.y_head + first_column + thread] = from_float<T>(sum);
}

}  // namespace hsm::cuda
