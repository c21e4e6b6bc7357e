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

// Writes one row of sums, as the unit that reads it (kTensor: tensor cores) wants it: float32, or bfloat16 high parts
// and low parts. Row 0, the constant feature, always stays float32.
template <bool kTensor>
__device__ __forceinline__ void store_sums(float* row, int feature, int width, int lane,
                                           const float (&sum)[kCombineColumns]) {
  // Lanes write over what other lanes read.
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kCombineColumns; ++j) {
    const int column = lane + 32 * j;
    if (column >= width) break;
    if (kTensor && feature > 0) {
      auto* const planes = reinterpret_cast<__nv_bfloat16*>(row);
      const __nv_bfloat16 high = from_float<__nv_bfloat16>(sum[j]);
      planes[column] = high;
      planes[width + column] = from_float<__nv_bfloat16>(sum[j] - to_float(high));
    } else {
      row[column] = sum[j];
    }
  }
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
  std::int64_t segments = call.segments;
  if (call.causal) {
    const std::int64_t valid = min(max(call.lengths[head / call.heads], std::int64_t{0}), call.length);
    segments = (valid + call.segment_length - 1) / call.segment_length;
    if (lane == 0) norm = call.norm[carried];
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) {
      if (lane + 32 * j < call.value_dim) sum[j] = call.state[carried * call.value_dim + lane + 32 * j];
    }
  }
  for (std::int64_t segment = 0; segment < segments; ++segment) {
    float* const slot = slot_of(call, local, segment);
    float* const row = slot + static_cast<std::int64_t>(feature) * width;
    float added[kCombineColumns];
    float before[kCombineColumns];
    const float added_norm = slot[norm_offset(call) + feature];
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) {
      added[j] = lane + 32 * j < width ? row[lane + 32 * j] : 0.0f;
      before[j] = weight * sum[j];
    }
    if (call.causal) {
      store_sums<kTensor>(row, feature, width, lane, before);
      if (lane == 0) slot[norm_offset(call) + feature] = weight * norm;
    }
    norm += added_norm;
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) sum[j] += added[j];
  }
  if (!call.causal) {
#pragma unroll
    for (int j = 0; j < kCombineColumns; ++j) sum[j] *= weight;
    float* const slot = slot_of(call, local, 0);
    store_sums<kTensor>(slot + static_cast<std::int64_t>(feature) * width, feature, width, lane, sum);
    if (lane == 0) slot[norm_offset(call) + feature] = weight * norm;
    return;
  }
#pragma unroll
  for (int j = 0; j < kCombineColumns; ++j) {
    if (lane + 32 * j < call.value_dim) call.state_out[carried * call.value_dim + lane + 32 * j] = sum[j];
  }
  if (lane == 0) call.norm_out[carried] = norm;
}

}  // namespace hsm::cuda
