// Kernels of ExpertMLP: tokens are sorted by expert, and each expert multiplies its own. N = B·T tokens, S = N·k
// choices, D×w and w×O the matrices of an expert, e bytes to an element, g ≤ min(E, S) experts that some token chose:
//
//   flops  2·S·w·(D + O) and, on tensor cores, 2·S·w·O more: hidden units are two numbers of type T, high and low part
//          (22 or 16 bits), so that little more is lost than the last bits of float32 sums; rows of an expert are
//          rounded up to 16
//   bytes  DRAM: e·(N·D + g·w·(D + O) + N·O) + 4·N·E, everything once; the hidden units (2e·S·w), the products
//          (4·S·O) and the sorting (4·S·E) go through L2
//   bound  the weights when an expert has few tokens: S/g flops a byte and element of them, else the tensor cores
//
// route: a warp a token finds its experts, and their gates. sort: a block an expert finds its tokens, in order. rows: a
// block owns 64 columns of one expert, and of its tokens every `segments`-th 64; hidden units, then gated products, one
// row a choice. combine: adds the rows of a token. Always in the same order, without atomics.
//
// Of few tokens, gather_hidden and gather_sum read the matrices of each token's own experts instead (as
// expert_gather.cuh does).
//
// A float16 hidden unit beyond 65504 is infinite on tensor cores, as between two layers of type float16.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/expert_matmul/expert_gather.cuh"
#include "hsm_operators/expert_matmul/expert_routing.cuh"
#include "hsm_operators/expert_matmul/expert_tile.cuh"
#include "hsm_operators/expert_mlp/activation.h"

namespace hsm::cuda {

// The choices of some tokens, in device memory. A choice is numbered token · active + rank.
struct MlpChoices {
  int* chosen;   // (choices) the expert, or `experts` where its gate is 0
  float* gates;  // (choices)
  int* order;    // (choices) sorted by expert
  int* ends;     // (experts) where each expert's choices end in `order`
  int count;
  int active;
  int experts;
};

inline constexpr int kRouteWarps = 4;
inline constexpr int kSortThreads = 256;
inline constexpr int kCombineThreads = 256;

__device__ __forceinline__ float activate(float h, Activation activation) {
  if (activation == Activation::kRelu) return h < 0.0f ? 0.0f : h;
  const float sign = activation == Activation::kGelu ? erff(h * 0.70710678118654752f)
                                                     : tanhf(h * (h * h * 0.044715f + 1.0f) * 0.79788456080286536f);
  return h * 0.5f * (sign + 1.0f);
}

// Grid: tokens / kRouteWarps.
static __global__ void __launch_bounds__(32 * kRouteWarps) expert_mlp_route(const float* logits, const MlpChoices c) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int token = static_cast<int>(blockIdx.x) * kRouteWarps + thread / 32;
  if (token >= c.count / c.active) return;
  const float* own = logits + static_cast<std::int64_t>(token) * c.experts;
  Rank lowest = ~Rank{0};
  for (int i = 0; i < c.active; ++i) {
    Rank best = 0;
    for (int e = lane; e < c.experts; e += 32) {
      const Rank rank = rank_of(own[e], e);
      if (rank < lowest) best = max(best, rank);
    }
#pragma unroll
    for (int flip = 16; flip > 0; flip /= 2) best = max(best, __shfl_xor_sync(0xffffffffU, best, flip));
    lowest = best;
    if (lane != 0) continue;
    const int expert = expert_of(best);
    const float gate = gate_of(own[expert], expert, best);
    c.chosen[token * c.active + i] = gate == 0.0f ? c.experts : expert;
    c.gates[token * c.active + i] = gate;
  }
}

// The sum over the block's threads of `value`; `partial` is shared memory for one number a warp.
__device__ __forceinline__ int block_sum(int value, int* partial) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value += __shfl_xor_sync(0xffffffffU, value, flip);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  int sum = 0;
  for (int warp = 0; warp < kSortThreads / 32; ++warp) sum += partial[warp];
  return sum;
}

// Grid: experts.
static __global__ void __launch_bounds__(kSortThreads) expert_mlp_sort(const MlpChoices c) {
  HSM_DYNAMIC_SHARED(int, counts);  // one a warp
  const int thread = static_cast<int>(threadIdx.x);
  const int expert = static_cast<int>(blockIdx.x);
  int before = 0;
  int own = 0;
  for (int i = thread; i < c.count; i += kSortThreads) {
    before += c.chosen[i] < expert ? 1 : 0;
    own += c.chosen[i] == expert ? 1 : 0;
  }
  int place = block_sum(before, counts);
  const int end = place + block_sum(own, counts);
  if (thread == 0) c.ends[expert] = end;
  for (int first = 0; place < end; first += kSortThreads) {
    const bool chosen = first + thread < c.count && c.chosen[first + thread] == expert;
    const unsigned votes = __ballot_sync(0xffffffffU, chosen);
    __syncthreads();
    if (thread % 32 == 0) counts[thread / 32] = __popc(votes);
    __syncthreads();
    int at = place + __popc(votes & ((1U << thread % 32) - 1));
    for (int warp = 0; warp < kSortThreads / 32; ++warp) {
      if (warp < thread / 32) at += counts[warp];
      place += counts[warp];
    }
    if (chosen) c.order[at] = first + thread;
  }
}

// What a launch of `rows` multiplies, and what becomes of it.
template <typename T>
struct MlpRows {
  MlpChoices choices;
  const T* x;  // of choice s: x + s / sharing · x_row, and each part x_part after it
  std::int64_t x_row;
  std::int64_t x_part;
  int sharing;
  int parts;
  const T* weight;  // (experts,inputs,outputs)
  int inputs;
  int outputs;
  int segments;
  bool aligned_x;  // rows start at multiples of 16 bytes and are whole vectors long
  bool aligned_weight;
  // Hidden units: the activated sums, in two parts unless T is float32.
  Activation activation;
  T* hidden;
  std::int64_t hidden_part;
  // Or gated sums, if `hidden` is null.
  float* product;
  std::int64_t y_row;  // of either
};

inline constexpr int kMlpRows = 64;

template <typename T>
struct MlpShared {
  using Tile = ExpertTile<T, kMlpRows>;
  typename Tile::Chunk chunks[Tile::kStages];
  typename Tile::List list;
  int choices[kMlpRows];
  float y[kMlpRows * Tile::kStrideY];
};

// Writes a vector of hidden units, or of products.
template <typename T>
__device__ __forceinline__ void store_row(const MlpRows<T>& p, const float* sums, std::int64_t at, int count) {
  if (p.hidden == nullptr) {
    for (int j = 0; j < min(count, Vector<T>::kSize); ++j) p.product[at + j] = sums[j];
    return;
  }
  Vector<T> high, low;
#pragma unroll
  for (int j = 0; j < Vector<T>::kSize; ++j) {
    const float value = activate(sums[j], p.activation);
    high.values[j] = from_float<T>(value);
    const float rounded = to_float(high.values[j]);
    low.values[j] = from_float<T>(rounded - rounded == 0.0f ? value - rounded : 0.0f);
  }
  store_vector(p.hidden + at, high, count);
  if constexpr (!std::is_same_v<T, float>) store_vector(p.hidden + p.hidden_part + at, low, count);
}

// One tile: `count` choices from `first` on, in the order of the expert's.
template <typename T, typename Product>
__device__ __forceinline__ void multiply_rows(const MlpRows<T>& p, MlpShared<T>& shared, Product& product, int expert,
                                              int first_column) {
  using Tile = ExpertTile<T, kMlpRows>;
  const int chunks = (p.inputs + Tile::kDepth - 1) / Tile::kDepth;
  const T* matrix = p.weight + static_cast<std::int64_t>(expert) * p.inputs * p.outputs;
  const int count = shared.list.count;
  const auto produce = [&](int number) {
    if (number < p.parts * chunks) {
      typename Tile::Chunk& chunk = shared.chunks[number % Tile::kStages];
      const std::int64_t part = number / chunks * p.x_part;
      const int first = number % chunks * Tile::kDepth;
      const auto row = [&](int i) { return p.x + part + shared.choices[i] / p.sharing * p.x_row; };
      load_rows<T, kMlpRows>(chunk, count, row, first, p.inputs, p.aligned_x);
      load_weights<T, kMlpRows>(chunk, matrix, first, p.inputs, first_column, p.outputs, p.aligned_weight);
    }
    cp_async_commit();
  };
  for (int i = 0; i < Tile::kStages - 1; ++i) produce(i);
  for (int i = 0; i < p.parts * chunks; ++i) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the chunk is there, and the one before it is no longer read
    produce(i + Tile::kStages - 1);
    product.multiply(shared.chunks[i % Tile::kStages], count);
  }
}

// Grid: experts × segments, tiles of columns.
template <typename T, template <typename, int> typename Product>
__global__ void __launch_bounds__(2 * kMlpRows, 3) expert_mlp_rows(const MlpRows<T> p) {
  using Tile = ExpertTile<T, kMlpRows>;
  HSM_DYNAMIC_SHARED(MlpShared<T>, shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int expert = static_cast<int>(blockIdx.x) % p.choices.experts;
  const int segment = static_cast<int>(blockIdx.x) / p.choices.experts;
  const int first_column = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const int end = p.choices.ends[expert];
  const int begin = expert == 0 ? 0 : p.choices.ends[expert - 1];
  Product<T, kMlpRows> product;
  for (int first = begin + segment * kMlpRows; first < end; first += p.segments * kMlpRows) {
    const int count = min(end - first, kMlpRows);
    if (thread == 0) shared->list.count = count;
    if (thread < count) {
      const int choice = p.choices.order[first + thread];
      shared->choices[thread] = choice;
      shared->list.tokens[thread] = thread;
      shared->list.gates[thread] = p.hidden == nullptr ? p.choices.gates[choice] : 1.0f;
    }
    for (int i = thread; i < kMlpRows * Tile::kStrideY; i += Tile::kThreads) shared->y[i] = 0.0f;
    __syncthreads();
    multiply_rows(p, *shared, product, expert, first_column);
    product.add(shared->list, shared->y);
    __syncthreads();
    constexpr int kVectors = Tile::kColumns / Tile::kVector;
    for (int i = thread; i < count * kVectors; i += Tile::kThreads) {
      const int column = i % kVectors * Tile::kVector;
      store_row(p, shared->y + i / kVectors * Tile::kStrideY + column,
                shared->choices[i / kVectors] * p.y_row + first_column + column, p.outputs - first_column - column);
    }
    __syncthreads();
  }
}

// The products (choices,row) and the result (tokens,outputs).
template <typename T>
struct MlpSums {
  MlpChoices choices;
  const float* product;
  std::int64_t row;
  T* y;
  int outputs;
};

// Grid: tokens × vectors of outputs / kCombineThreads.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads) expert_mlp_combine(const MlpSums<T> p) {
  const int vectors = (p.outputs + Vector<T>::kSize - 1) / Vector<T>::kSize;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  const std::int64_t token = i / vectors;
  if (token * p.choices.active >= p.choices.count) return;
  const int column = static_cast<int>(i % vectors) * Vector<T>::kSize;
  float sums[Vector<T>::kSize] = {};
  for (std::int64_t choice = token * p.choices.active; choice < (token + 1) * p.choices.active; ++choice) {
    if (p.choices.chosen[choice] == p.choices.experts) continue;
    // Rows are padded to whole vectors, of which nobody sees the padding.
    const auto row = *reinterpret_cast<const Vector<float, Vector<T>::kSize>*>(p.product + choice * p.row + column);
#pragma unroll
    for (int j = 0; j < Vector<T>::kSize; ++j) sums[j] += row.values[j];
  }
  Vector<T> values;
#pragma unroll
  for (int j = 0; j < Vector<T>::kSize; ++j) values.values[j] = from_float<T>(sums[j]);
  store_vector(p.y + token * p.outputs + column, values, p.outputs - column);
}

// A few tokens' weights, hidden units (choices,hidden) and result.
template <typename T>
struct MlpGather {
  MlpChoices choices;
  const T* x;
  const T* up;
  const T* down;
  float* units;
  T* y;
  int inputs;
  int hidden;
  int outputs;
  Activation activation;
};

// Grid: choices × tiles of hidden units.
template <typename T, int kCount>
__global__ void __launch_bounds__(kGatherThreads, 3) expert_mlp_gather_hidden(const MlpGather<T> p) {
  constexpr int kColumns = kGatherVectors * kCount;
  HSM_DYNAMIC_SHARED(float, partial);  // (kGatherParts, kColumns)
  const auto tiles = static_cast<unsigned>((p.hidden + kColumns - 1) / kColumns);
  const std::int64_t choice = blockIdx.x / tiles;
  const int first_column = static_cast<int>(blockIdx.x % tiles) * kColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = first_column + thread % kGatherVectors * kCount;
  const int expert = p.choices.chosen[choice];
  if (expert == p.choices.experts) return;
  float sums[kCount] = {};
  if (column < p.hidden) {
    const T* matrix = p.up + static_cast<std::int64_t>(expert) * p.inputs * p.hidden + column;
    add_expert(p.inputs, p.hidden, p.x + choice / p.choices.active * p.inputs, matrix, thread / kGatherVectors, 1.0f,
               sums);
  }
  float sum;
  if (!sum_of_parts<kCount>(sums, partial, sum) || first_column + thread >= p.hidden) return;
  p.units[choice * p.hidden + first_column + thread] = activate(sum, p.activation);
}

// Grid: tokens × tiles of outputs.
template <typename T, int kCount>
__global__ void __launch_bounds__(kGatherThreads, 3) expert_mlp_gather_sum(const MlpGather<T> p) {
  constexpr int kColumns = kGatherVectors * kCount;
  HSM_DYNAMIC_SHARED(float, partial);  // (kGatherParts, kColumns)
  const auto tiles = static_cast<unsigned>((p.outputs + kColumns - 1) / kColumns);
  const std::int64_t token = blockIdx.x / tiles;
  const int first_column = static_cast<int>(blockIdx.x % tiles) * kColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = first_column + thread % kGatherVectors * kCount;
  float sums[kCount] = {};
  for (std::int64_t choice = token * p.choices.active; choice < (token + 1) * p.choices.active; ++choice) {
    const int expert = p.choices.chosen[choice];
    if (expert == p.choices.experts || column >= p.outputs) continue;
    const T* matrix = p.down + static_cast<std::int64_t>(expert) * p.hidden * p.outputs + column;
    add_expert(p.hidden, p.outputs, p.units + choice * p.hidden, matrix, thread / kGatherVectors,
               p.choices.gates[choice], sums);
  }
  float sum;
  if (!sum_of_parts<kCount>(sums, partial, sum) || first_column + thread >= p.outputs) return;
  p.y[token * p.outputs + first_column + thread] = from_float<T>(sum);
}

}  // namespace hsm::cuda
