// TaylorShift in float32 arithmetic, for every element type and architecture.
//
// All work is products of tiles in shared memory: 256 threads as 16×16, each with a block of rows × columns of the sum
// in registers, columns beyond 64 in blocks of 64 that are skipped where values are narrower.
//
// One head of N tokens, width d and values of width e, F = 1 + d + d(d+1)/2, elements of b bytes, S segments, K keys
// that a query sees:
//
//                   flops             memory, bytes                second-level cache, bytes
//   accumulate      2·N·F·(e+1)       N·(d+e)·b + 4·S·F·(e+1)      N·(d+e)·b · F/64
//   attend, sums    2·N·F·(e+1)       N·(d+e)·b + 4·S·F·(e+1)      4·F·(e+1) · N/64
//   attend, keys    2·N·K·(d+e)       2·N·(d+e)·b                  K·(d+e)·b · N/64    (N/16 for widths above 128)
//
// With e = d that is F/b and K/b flops a byte of memory, and 32 to 128/b a byte of the cache. A GPU does 13 (A100) to
// 82 (RTX 4090) float32 flops in the time of a byte of memory, so arithmetic is the bound once F or K exceeds that
// times b. Each multiply-add of a 4×4 block costs half a float from shared memory, of a 4×1 block (widths up to 16)
// more than one: there shared memory is the bound.
//
// The wider of d and e decides on the class of tiles, so that shared memory suffices for both. Shared memory, bytes at
// the widest head of a class (sm_75 allows 65536), and registers (nvcc 13.0, most of the three types; no spills):
//
//   d, e up to                     16      32      64      128     256
//   accumulate      shared         14672   18832   27152   43792   39568
//                   sm_75          64      64      64      72      122
//                   sm_80 to 90    48      48      64      71      124
//                   sm_100, 120    48      48      63      71      127
//   attend          shared         20416   29120   46528   59904   60544
//     sums          sm_75 to 89    70      72      72      95      70
//                   sm_90          72      71      78      96      70
//                   sm_100, 120    57      54      68      86      70
//     keys          sm_75 to 90    80      86      90      101     84
//                   sm_100, 120    87      91      96      105     78
//     both          sm_75 to 90    101     122     126     127     106
//                   sm_100, 120    96      101     110     116     94
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/taylor_features.cuh"

namespace hsm::cuda {

// A class of widths, of heads and values, up to kColumns.
template <int kColumns>
struct SimtTile {
  static constexpr int kThreads = 256;
  static constexpr int kSide = 16;  // threads along rows and along columns

  // attend: queries of a block, and keys or features of a step
  static constexpr int kQueries = kColumns <= 128 ? 64 : 16;
  static constexpr int kKeys = kColumns <= 64 ? 32 : 16;
  static constexpr int kQueryStride = kQueries + 4;
  static constexpr int kKeyStride = kKeys + 4;
  static constexpr int kValueStride = kColumns + 4;

  // accumulate: features of a block and keys of a step; an odd stride, since lanes read along rows
  static constexpr int kFeatures = 64;
  static constexpr int kFeatureStride = kFeatures + 4;
  static constexpr int kSumKeys = kColumns <= 128 ? 32 : 16;
  static constexpr int kSumKeyStride = kSumKeys + 1;

  static constexpr int kOwnColumns = kColumns / kSide;
  static constexpr int kOwnQueries = kQueries / kSide;
  static constexpr int kOwnKeys = kKeys / kSide;
  static constexpr int kOwnFeatures = kFeatures / kSide;
  static constexpr int kVector = kOwnColumns < 4 ? kOwnColumns : 4;

  // Floats of each area of shared memory, rounded so that the next one is aligned to 16 bytes.
  static __host__ __device__ constexpr int rounded(int floats) { return (floats + 3) / 4 * 4; }
  static __host__ __device__ constexpr std::size_t attend_bytes(int dim) {
    return sizeof(float) *
           static_cast<std::size_t>(rounded((dim + 2) * kQueryStride) + rounded((dim + 2) * kKeyStride) +
                                    kKeys * kValueStride + kKeys * kQueryStride + kThreads + kKeys + 4 * kKeys);
  }
  static __host__ __device__ constexpr std::size_t accumulate_bytes(int dim) {
    return sizeof(float) * static_cast<std::size_t>(rounded((dim + 2) * kSumKeyStride) + kSumKeys * kValueStride +
                                                    kSumKeys * kFeatureStride + kThreads);
  }
};

template <int kCount>
struct alignas(4 * kCount) Floats {
  float values[kCount];
};

template <int kCount>
__device__ __forceinline__ Floats<kCount> load_floats(const float* data) {
  return *reinterpret_cast<const Floats<kCount>*>(data);
}

// sum (rows × columns of this thread) += a^T b for `a` (depth, rows) and `b` (depth, columns) in shared memory. This
// thread's rows begin at row · kRows; its columns are kVector in each block of 16·kVector.
template <int kRows, int kOwnColumns>
__device__ __forceinline__ void multiply(const float* a, int a_stride, const float* b, int b_stride, int depth,
                                         int columns, float (&sum)[kRows][kOwnColumns]) {
  constexpr int kVector = kOwnColumns < 4 ? kOwnColumns : 4;
  const int row = static_cast<int>(threadIdx.x) / 16 * kRows;
  const int column = static_cast<int>(threadIdx.x) % 16 * kVector;
#pragma unroll 4
  for (int k = 0; k < depth; ++k) {
    const Floats<kRows> left = load_floats<kRows>(a + k * a_stride + row);
#pragma unroll
    for (int block = 0; block < kOwnColumns / kVector; ++block) {
      if (block * 16 * kVector >= columns) break;
      const Floats<kVector> right = load_floats<kVector>(b + k * b_stride + block * 16 * kVector + column);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kVector; ++c) sum[r][block * kVector + c] += left.values[r] * right.values[c];
      }
    }
  }
}

// total[r] += sum over k of a[k][r] · weight[k], shared out over the 16 threads of a row by k; weight null: 1.
template <int kRows>
__device__ __forceinline__ void multiply_column(const float* a, int a_stride, const float* weight, int depth,
                                                float (&total)[kRows]) {
  const int row = static_cast<int>(threadIdx.x) / 16 * kRows;
  for (int k = static_cast<int>(threadIdx.x) % 16; k < depth; k += 16) {
    const Floats<kRows> left = load_floats<kRows>(a + k * a_stride + row);
    const float factor = weight == nullptr ? 1.0f : weight[k];
#pragma unroll
    for (int r = 0; r < kRows; ++r) total[r] += left.values[r] * factor;
  }
}

// Adds up what the 16 threads of a row hold.
template <int kRows>
__device__ __forceinline__ void reduce_row(float (&total)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int flip = 8; flip > 0; flip /= 2) total[r] += __shfl_xor_sync(0xffffffffU, total[r], flip);
  }
}

// Reads rows of `dim` elements into a tile (kRows, kStride) of float32, zero beyond `count` and `dim`.
template <int kRows, int kColumns, int kThreads, typename T>
__device__ __forceinline__ void load_rows(const T* rows, std::int64_t stride, int count, int dim, float* tile) {
  constexpr int kSize = Vector<T>::kSize;
  constexpr int kChunks = kColumns / kSize;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int column = i % kChunks * kSize;
    const Vector<T> vector = load_vector(rows + row * stride + column, row < count ? dim - column : 0);
#pragma unroll
    for (int j = 0; j < kSize; ++j) tile[row * (kColumns + 4) + column + j] = to_float(vector.values[j]);
  }
}

// Sums phi(k) [v | 1] of one tile of features over one segment of keys. Grid: feature tiles × segments × heads.
template <typename T, int kColumns>
__global__ void __launch_bounds__(256, kColumns <= 64 ? 0 : (kColumns <= 128 ? 3 : 2))
    taylor_accumulate_simt(TaylorCall call) {
  using Tile = SimtTile<kColumns>;
  HSM_DYNAMIC_SHARED(float, shared);
  float* const keys = shared;
  float* const values = keys + Tile::rounded((call.dim + 2) * Tile::kSumKeyStride);
  float* const phi = values + Tile::kSumKeys * Tile::kValueStride;
  float* const partial = phi + Tile::kSumKeys * Tile::kFeatureStride;

  const int tiles = (call.features + Tile::kFeatures - 1) / Tile::kFeatures;
  const int first_feature = static_cast<int>(blockIdx.x % tiles) * Tile::kFeatures;
  const std::int64_t segment = blockIdx.x / tiles % call.segments;
  const std::int64_t local = blockIdx.x / tiles / call.segments;
  const Head<T> head(call, local);
  const std::int64_t end = min((segment + 1) * call.segment_length, head.valid);
  if (call.causal && segment * call.segment_length >= head.valid) return;  // a slot nobody reads

  // Each thread makes one feature, of every fourth key.
  const int thread = static_cast<int>(threadIdx.x);
  const int own_feature = thread % Tile::kFeatures;
  const FeatureRows rows = feature_rows(first_feature + own_feature, call.features, call.dim);
  const float* const left = keys + rows.first * Tile::kSumKeyStride;
  const float* const right = keys + rows.second * Tile::kSumKeyStride;
  float sum[Tile::kOwnFeatures][Tile::kOwnColumns] = {};
  float norm[Tile::kOwnFeatures] = {};
  for (std::int64_t first = segment * call.segment_length; first < end; first += Tile::kSumKeys) {
    const int count = clamp_count(end - first, Tile::kSumKeys);
    __syncthreads();
    load_transposed<Tile::kSumKeys, Tile::kSumKeyStride, Tile::kThreads>(
        head.k + first * head.stride, head.stride, count, call.dim, call.normalize, 1.0f, keys, partial);
    load_rows<Tile::kSumKeys, kColumns, Tile::kThreads>(head.v + first * head.value_stride, head.value_stride, count,
                                                        call.value_dim, values);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Tile::kSumKeys; i += Tile::kThreads / Tile::kFeatures) {
      const int key = i + thread / Tile::kFeatures;
      phi[key * Tile::kFeatureStride + own_feature] = left[key] * right[key];
    }
    __syncthreads();
    multiply(phi, Tile::kFeatureStride, values, Tile::kValueStride, Tile::kSumKeys, call.value_dim, sum);
    multiply_column(phi, Tile::kFeatureStride, nullptr, Tile::kSumKeys, norm);
  }
  reduce_row(norm);

  float* const slot = slot_of(call, local, segment);
  const int width = sum_width(call);
  const int lane = thread % Tile::kSide;
#pragma unroll
  for (int r = 0; r < Tile::kOwnFeatures; ++r) {
    const int feature = first_feature + thread / Tile::kSide * Tile::kOwnFeatures + r;
    if (feature >= call.features) break;
#pragma unroll
    for (int c = 0; c < Tile::kOwnColumns; ++c) {
      const int column = (c / Tile::kVector * Tile::kSide + lane) * Tile::kVector + c % Tile::kVector;
      if (column < width) slot[static_cast<std::int64_t>(feature) * width + column] = sum[r][c];
    }
    if (lane == 0) slot[norm_offset(call) + feature] = norm[r];
  }
}

}  // namespace hsm::cuda
