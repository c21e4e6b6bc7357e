// Adds the slots of a head in their order: one warp for each row of sums, so that every number has one order of
// addition.
//
// For S slots of one head, F = 1 + d + d(d+1)/2: bytes 8·(S + 1)·F·(e+1) (causal: each slot is read and written, and so
// is the state) or 4·(S + 1)·F·(e+1) (bidirectional: each is read, one is written); flops S·F·(e+1). Memory is the
// bound. No shared memory; registers (nvcc 13.0, no spills) 48 to 79 where rows stay float32, else 64 to 116.
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/taylor_features.cuh"

namespace hsm::cuda {

inline constexpr int kCombineWarps = 8;
inline constexpr int kCombineColumns = 8;  // of a lane; e is at most 256

// The largest of the numbers that `accumulate` noted for each tile of features, of its sums or of the carried state.
__device__ __forceinline__ float largest_noted(const TaylorCall& call, const float* slot, bool of_state, int lane) {
  float largest = 0.0f;
  for (int tile = lane; tile < call.feature_tiles; tile += 32)
    largest = fmaxf(largest, slot[largest_offset(call, of_state) + tile]);
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, flip));
  return largest;
}

// Writes one row of a slot with its normaliser, as the unit that reads it wants it. For tensor cores (kTensor) a row is
// `width` float16 numbers, multiples of a power of two next to `bound`, which no sum exceeds, so that none exceeds 2,
// then the normaliser. Else a row is float32, and so is always row 0, the constant feature, whose normaliser is where
// `accumulate` puts it.
template <bool kTensor>
__device__ __forceinline__ void store_sums(const TaylorCall& call, float* slot, int feature, int lane,
                                           const float (&sum)[kCombineColumns], float norm, float bound) {
  const int width = sum_width(call);
  float* const row = slot + static_cast<std::int64_t>(feature) * width;
  // The exponent alone; what is smaller than any power of two that a float is counts as 0.
  const float scale = __int_as_float(__float_as_int(bound) & 0x7f800000);
  if (!kTensor || feature == 0) {
    if (lane == 0) slot[norm_offset(call) + feature] = norm;
    if (kTensor && lane == 0) slot[scale_offset(call)] = scale;
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) {
      if (lane + 32 * j < width) row[lane + 32 * j] = sum[j];
    }
    return;
  }
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  // Lanes write over what other lanes have read.
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kCombineColumns; ++j) {
    if (lane + 32 * j < width) reinterpret_cast<__half*>(row)[lane + 32 * j] = from_float<__half>(sum[j] * inverse);
  }
  if (lane == 0) row[width / 2] = norm;
  __syncwarp();
}

// Grid: rows of sums × heads, eight to a block. Bidirectional: the first slot becomes the sum of all. Causal: each slot
// becomes the state before its segment, and the state after the last goes out. The query's weight ½ of the squares
// (delta = 0) is put on the slots.
template <bool kTensor>
__global__ void __launch_bounds__(32 * kCombineWarps) taylor_combine(TaylorCall call) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * kCombineWarps + static_cast<std::int64_t>(threadIdx.x / 32);
  if (index >= call.head_count * call.features) return;
  const std::int64_t local = index / call.features;
  const std::int64_t head = call.first_head + local;
  const int feature = static_cast<int>(index % call.features);
  const int width = sum_width(call);
  const float weight = feature > call.dim && feature <= 2 * call.dim ? 0.5f : 1.0f;
  const std::int64_t carried = head * call.features + feature;

  float sum[kCombineColumns] = {};
  float norm = 0.0f;
  float bound = 0.0f;  // of the numbers in `sum`, of every row
  std::int64_t segments = call.segments;
  if (call.causal) {
    const std::int64_t valid = min(max(call.lengths[head / call.heads], std::int64_t{0}), call.length);
    segments = (valid + call.segment_length - 1) / call.segment_length;
    if (kTensor && segments > 0) bound = largest_noted(call, slot_of(call, local, 0), true, lane);
    if (lane == 0) norm = call.norm[carried];
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) {
      if (lane + 32 * j < call.value_dim) sum[j] = call.state[carried * call.value_dim + lane + 32 * j];
    }
  }
  for (std::int64_t segment = 0; segment < segments; ++segment) {
    float* const slot = slot_of(call, local, segment);
    const float* const row = slot + static_cast<std::int64_t>(feature) * width;
    float added[kCombineColumns];
    float before[kCombineColumns];
    const float added_norm = slot[norm_offset(call) + feature];
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) {
      added[j] = lane + 32 * j < width ? row[lane + 32 * j] : 0.0f;
      before[j] = weight * sum[j];
    }
    if (call.causal) store_sums<kTensor>(call, slot, feature, lane, before, weight * norm, bound);
    if constexpr (kTensor) bound += largest_noted(call, slot, false, lane);
    norm += added_norm;
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) sum[j] += added[j];
  }
  if (!call.causal) {
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) sum[j] *= weight;
    store_sums<kTensor>(call, slot_of(call, local, 0), feature, lane, sum, weight * norm, bound);
    return;
  }
#pragma unroll
  for (int j = 0; j < kCombineColumns; ++j) {
    if (lane + 32 * j < call.value_dim) call.state_out[carried * call.value_dim + lane + 32 * j] = sum[j];
  }
  if (lane == 0) call.norm_out[carried] = norm;
}

}  // namespace hsm::cuda
