// Device parts that the TaylorShift kernels share: one head of a call, tiles of tokens, and the packed features.
//
// A tile of tokens for features is kept transposed in float32, `tile[row][token]`: rows 0..d-1 are the (normalised)
// coordinates, row d is 1 and row d+1 is 0, both 0 for tokens that do not exist. Every feature is then the product of
// two rows: (d, d) the constant, (i, d) the linear ones, (i, (i+delta) mod d) the quadratic ones, (d+1, d+1) none.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/common/cuda/platform.cuh"
#include "hsm_operators/taylor_shift/taylor_call.h"

namespace hsm::cuda {

// One head of a call, typed.
template <typename T>
struct Head {
  const T* q;
  const T* k;
  const T* v;
  T* y;
  std::int64_t stride;        // elements between tokens, of queries and keys
  std::int64_t value_stride;  // and of values and results
  std::int64_t length;        // tokens
  std::int64_t valid;         // tokens that are not padding
  float temperature;
  float scale;  // of the output

  // `local` counts the heads of this launch.
  __device__ Head(const TaylorCall& call, std::int64_t local) {
    const std::int64_t head = call.first_head + local;
    const std::int64_t b = head / call.heads;
    const std::int64_t h = head % call.heads;
    const std::int64_t row = b * call.length * call.heads + h;
    q = static_cast<const T*>(call.q) + row * call.dim;
    k = static_cast<const T*>(call.k) + row * call.dim;
    v = static_cast<const T*>(call.v) + row * call.value_dim;
    y = static_cast<T*>(call.y) + row * call.value_dim;
    stride = call.heads * call.dim;
    value_stride = call.heads * call.value_dim;
    length = call.length;
    valid = call.length;
    if (call.lengths != nullptr) {
      const std::int64_t own = call.lengths[b];
      valid = own < 0 ? 0 : (own < length ? own : length);
    }
    temperature = call.normalize ? to_float(static_cast<const T*>(call.temperature)[h]) : 1.0f;
    scale = call.output_norm ? sqrtf(static_cast<float>(valid) / static_cast<float>(call.dim)) : 1.0f;
  }
};

// Floats of a row of sums; the layout is that of taylor_call.h.
__device__ __forceinline__ int sum_width(const TaylorCall& call) { return (call.value_dim + 7) / 8 * 8; }

// The slot of one segment of one head of this launch.
__device__ __forceinline__ float* slot_of(const TaylorCall& call, std::int64_t local, std::int64_t segment) {
  return call.sums + (local * call.segments + segment) * call.slot;
}

__device__ __forceinline__ std::int64_t norm_offset(const TaylorCall& call) {
  return std::int64_t{call.features} * sum_width(call);
}

// Of what the slot's numbers are multiples of.
__device__ __forceinline__ std::int64_t scale_offset(const TaylorCall& call) {
  return norm_offset(call) + (call.features + 3) / 4 * 4;
}

// Of the largest sums of each tile of features, and of the carried state.
__device__ __forceinline__ std::int64_t largest_offset(const TaylorCall& call, bool of_state) {
  return scale_offset(call) + 4 + (of_state ? call.feature_tiles : 0);
}

// The two rows of a transposed tile whose product is a feature; `feature` may lie beyond the last one.
struct FeatureRows {
  int first;
  int second;
};

__device__ __forceinline__ FeatureRows feature_rows(std::int64_t feature, int features, int dim) {
  if (feature >= features) return {dim + 1, dim + 1};
  const int f = static_cast<int>(feature);
  if (f == 0) return {dim, dim};
  if (f <= dim) return {f - 1, dim};
  const int packed = f - 1 - dim;
  const int i = packed % dim;
  const int j = i + packed / dim;
  return {i, j < dim ? j : j - dim};
}

// 1 + t + t²/2.
__device__ __forceinline__ float taylor_weight(float t) { return (0.5f * t + 1.0f) * t + 1.0f; }

__device__ __forceinline__ float normalizing_factor(float squares, float scale) {
  return scale / fmaxf(sqrtf(squares), 1e-12f);
}

__device__ __forceinline__ int clamp_count(std::int64_t count, int limit) {
  return count < 0 ? 0 : (count < limit ? static_cast<int>(count) : limit);
}

// Reads kTokens rows (`stride` elements apart, in global or shared memory; those from `count` on do not exist) into the
// transposed tile, scaled to the length `scale` when `normalize`. `partial` holds kThreads floats. All threads of the
// block take part; a barrier must follow, and one must have come after the tile's last use.
template <int kTokens, int kStride, int kThreads, typename T>
__device__ __forceinline__ void load_transposed(const T* rows, std::int64_t stride, int count, int dim, bool normalize,
                                                float scale, float* tile, float* partial) {
  constexpr int kParts = kThreads / kTokens;
  constexpr int kSize = Vector<T>::kSize;
  static_assert(kParts * kTokens == kThreads);
  const int token = static_cast<int>(threadIdx.x) % kTokens;
  const int part = static_cast<int>(threadIdx.x) / kTokens;
  float squares = 0.0f;
  for (int i = part * kSize; i < dim; i += kParts * kSize) {
    const Vector<T> vector = load_vector(rows + token * stride + i, token < count ? dim - i : 0);
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const float value = to_float(vector.values[j]);
      squares += value * value;
      if (i + j < dim) tile[(i + j) * kStride + token] = value;
    }
  }
  if (part == 0) {
    tile[dim * kStride + token] = token < count ? 1.0f : 0.0f;
    tile[(dim + 1) * kStride + token] = 0.0f;
  }
  if (!normalize) return;
  partial[threadIdx.x] = squares;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int p = 0; p < kParts; ++p) total += partial[p * kTokens + token];
  const float factor = normalizing_factor(total, scale);
  for (int i = part * kSize; i < dim; i += kParts * kSize) {
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (i + j < dim) tile[(i + j) * kStride + token] *= factor;
    }
  }
}

}  // namespace hsm::cuda
