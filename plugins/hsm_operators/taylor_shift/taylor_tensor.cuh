// TaylorShift on tensor cores, for float16 and bfloat16.
//
// Each product is made once, with operands of 16 bits and float32 sums. q, k and v are exact, and norms are applied in
// float32 after the product of q and k, or before features are made. Rounded are weights p(q·k) and features of keys,
// to T, and sums and features of queries, to float16: sums are divided by a power of two that bounds all of a slot,
// queries by one that brings each below the length 1, so that nothing overflows and what is lost below float16's range
// is less than 2^-24 of the largest. Float16 weights are scaled so that the largest that the temperature allows fits.
// The constant feature, the largest term, stays in float32. That costs less than rounding inputs and outputs to T does
// (test_products.py). Only where sums leave the operator as float32, the state of the causal form, do features of keys
// count as two numbers of type T (22 or 16 bits), and accumulate makes two products.
//
// Flops, memory and cache traffic are those of taylor_simt.cuh, but features of keys are made 128 or 256 at a time, and
// a block of attend has 128 queries (64 where d or e exceeds 128): it reads 2·e + 16 bytes of each row of sums. A byte
// of 2-byte elements meets F/2 (attend by sums, accumulate) or K/2 (by keys) flops of products. An A100 does 200 and an
// H100 300 of them for each byte of memory: from about d = 30 or 600 keys on the tensor cores are the bound. What a
// step costs besides them is in docs/cuda-report.md, "Ceilings from machine code". There remains a bank conflict of two
// in the vectors of queries that attend reads by sums, one of them to a step.
//
// mma.sync, not Hopper's wgmma: one source for sm_75 (float16 by keys) to sm_120.
//
// The wider of d and e decides on the class of tiles. Shared memory, bytes at the widest head of a class, and registers
// (nvcc 13.0, of sm_80 to sm_120 and both types; no spills):
//
//   d, e up to                32        64        128       256
//   accumulate    shared      27264     49792     52096     101248
//                 registers   53-64     157-181   190-228   175-224
//   attend, sums  shared      26144     49184     95264     96032
//                 registers   119-128   149-157   228-237   215-254
//   attend, keys  shared      21248     37632     52864     67968
//                 registers   180-202   211-234   227-241   224-254
//   attend, both  shared      26144     49184     95264     96032
//                 registers   219-226   233-244   225-246   236-254
#pragma once

#include <cstdint>
#include <type_traits>

#include "hsm_operators/common/cuda/mma.cuh"
#include "hsm_operators/taylor_shift/taylor_features.cuh"

namespace hsm::cuda {

// Left to itself, the compiler allows one register too few on sm_75.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr int kLeastSumBlocks = 2;
#else
inline constexpr int kLeastSumBlocks = 0;
#endif

// A class of widths, of heads and values, up to kColumns.
template <int kColumns>
struct TensorTile {
  static constexpr int kStride = kColumns + 8;  // of rows in shared memory: no bank conflicts in ldmatrix

  // accumulate: 8 warps of 16 or 32 features
  static constexpr int kSumThreads = 256;
  static constexpr int kSumTiles = kColumns == 64 || kColumns == 128 ? 2 : 1;  // of 16 features
  static constexpr int kFeatures = 128 * kSumTiles;
  static constexpr int kSumKeys = kColumns <= 64 ? 64 : 32;
  static constexpr int kSumKeyStride = kSumKeys + 16;  // no conflicts of vectors in neighbouring rows

  // attend: 4 warps of 16 or 32 queries; keys or features of a step
  static constexpr int kThreads = 128;
  static constexpr int kTiles = kColumns <= 128 ? 2 : 1;  // of 16 queries
  static constexpr int kQueries = 64 * kTiles;
  static constexpr int kKeys = kColumns <= 64 ? 64 : 32;
  static constexpr int kQueryStride = kQueries + 4;
  static constexpr int kSteps = kColumns <= 128 ? 2 : 1;  // of 16 rows of sums, in a stage
  static constexpr int kRows = 16 * kSteps;
  static constexpr int kStages = 3;
  // Blocks of a multiprocessor that registers must allow.
  static constexpr int kSumBlocks = kColumns <= 32 ? kLeastSumBlocks : 1;
  static constexpr int attend_blocks(bool keys) { return keys || kColumns > 64 ? 2 : (kColumns <= 32 ? 4 : 3); }

  static __host__ __device__ constexpr std::size_t rounded(int floats) {
    return static_cast<std::size_t>((floats + 3) / 4 * 4) * sizeof(float);
  }
  static __host__ __device__ constexpr std::size_t accumulate_bytes(int dim) {
    return rounded((dim + 2) * kSumKeyStride) + 3 * kSumKeys * kStride * 2 + kSumThreads * sizeof(float);
  }
  static __host__ __device__ constexpr std::size_t sums_bytes(int dim) {
    return rounded((dim + 2) * kQueryStride) + kStages * kRows * kStride * 2 + kThreads * sizeof(float);
  }
  static __host__ __device__ constexpr std::size_t keys_bytes() {
    return (kQueries + 2 * kKeys) * kStride * 2 + (kQueries + kKeys) * sizeof(float);
  }
};

// Which of 16 rows of the right operand a lane gives to ldmatrix, so that the four that a thread has in the left one,
// 2t, 2t + 1, 2t + 8 and 2t + 9 for t = lane % 4, are the rows 4t to 4t + 3.
__device__ __forceinline__ int row_of_lane(int lane) { return lane % 8 / 2 * 4 + lane % 16 / 8 * 2 + lane % 2; }

// Two numbers as a pair of type T and, in `low`, what rounding left of them.
template <typename T>
__device__ __forceinline__ std::uint32_t split(float first, float second, std::uint32_t& low) {
  const std::uint32_t high = pack<T>(first, second);
  const T* const parts = reinterpret_cast<const T*>(&high);
  low = pack<T>(first - to_float(parts[0]), second - to_float(parts[1]));
  return high;
}

// Adds up what the four threads of a row of a fragment hold.
__device__ __forceinline__ float reduce_quad(float value) {
  value += __shfl_xor_sync(0xffffffffU, value, 1);
  return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

// Copies kRows rows of `dim` elements into a tile (kRows, kColumns + 8), zero beyond `count` and `dim`; done when the
// group that the caller closes is.
template <int kRows, int kColumns, int kThreads, typename T>
__device__ __forceinline__ void copy_rows(const T* rows, std::int64_t stride, int count, int dim, T* tile) {
  constexpr int kSize = Vector<T>::kSize;
  constexpr int kChunks = kColumns / kSize;
  constexpr int kPass = kThreads / kChunks;  // rows at once
  static_assert(kPass * kChunks == kThreads && kRows % kPass == 0);
  const int column = static_cast<int>(threadIdx.x) % kChunks * kSize;
  const int row = static_cast<int>(threadIdx.x) / kChunks;
  const int width = clamp_count(dim - column, kSize);
  const T* const from = rows + row * stride + column;
  T* const to = tile + row * (kColumns + 8) + column;
  if (is_aligned(rows) && stride % kSize == 0) {
#pragma unroll
    for (int i = 0; i < kRows; i += kPass) {
      const int bytes = row + i < count ? width * static_cast<int>(sizeof(T)) : 0;
      cp_async_16(to + i * (kColumns + 8), bytes > 0 ? from + i * stride : rows, bytes);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kRows; i += kPass) {
    const int elements = row + i < count ? width : 0;
    *reinterpret_cast<Vector<T>*>(to + i * (kColumns + 8)) =
        load_vector(elements > 0 ? from + i * stride : rows, elements);
  }
}

// Writes the largest of all threads' numbers. `partial` holds a number of each warp.
template <int kThreads>
__device__ __forceinline__ void note_largest(float largest, float* partial, float* to) {
  __syncthreads();
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, flip));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = largest;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) largest = fmaxf(largest, partial[warp]);
  *to = largest;
}

// Sums phi(k) [v | 1] of one tile of features over one segment of keys; with kExact features count as two numbers of
// type T. Grid: feature tiles × segments × heads.
template <typename T, int kColumns, bool kExact>
__global__ void __launch_bounds__(256, TensorTile<kColumns>::kSumBlocks) taylor_accumulate_tensor(TaylorCall call) {
  using Tile = TensorTile<kColumns>;
  HSM_DYNAMIC_SHARED(unsigned char, shared);
  float* const keys = reinterpret_cast<float*>(shared);
  float* const partial = reinterpret_cast<float*>(shared + Tile::rounded((call.dim + 2) * Tile::kSumKeyStride));
  T* const raw = reinterpret_cast<T*>(partial + Tile::kSumThreads);
  T* const values = raw + Tile::kSumKeys * Tile::kStride;  // two tiles

  const int tiles = (call.features + Tile::kFeatures - 1) / Tile::kFeatures;
  const std::int64_t segment = blockIdx.x / tiles % call.segments;
  const std::int64_t local = blockIdx.x / tiles / call.segments;
  const Head<T> head(call, local);
  const std::int64_t begin = segment * call.segment_length;
  const std::int64_t end = min(begin + call.segment_length, head.valid);
  if (call.causal && begin >= head.valid) return;  // a slot nobody reads

  // A thread has the features g and g + 8 of each 16, for g = lane / 4, and four neighbouring keys of each 16.
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int feature = static_cast<int>(blockIdx.x % tiles) * Tile::kFeatures +
                      static_cast<int>(threadIdx.x) / 32 * 16 * Tile::kSumTiles + lane / 4;
  int left[2 * Tile::kSumTiles];  // offsets in `keys`
  int right[2 * Tile::kSumTiles];
#pragma unroll
  for (int i = 0; i < 2 * Tile::kSumTiles; ++i) {
    const FeatureRows rows = feature_rows(feature + 8 * i, call.features, call.dim);
    left[i] = rows.first * Tile::kSumKeyStride + lane % 4 * 4;
    right[i] = rows.second * Tile::kSumKeyStride + lane % 4 * 4;
  }

  const auto copy = [&](std::int64_t first, int stage) {
    const int count = clamp_count(end - first, Tile::kSumKeys);
    const std::int64_t row = count > 0 ? first : 0;
    copy_rows<Tile::kSumKeys, kColumns, Tile::kSumThreads>(head.k + row * head.stride, head.stride, count, call.dim,
                                                           raw);
    copy_rows<Tile::kSumKeys, kColumns, Tile::kSumThreads>(head.v + row * head.value_stride, head.value_stride, count,
                                                           call.value_dim,
                                                           values + stage * Tile::kSumKeys * Tile::kStride);
    cp_async_commit();
  };

  float sum[Tile::kSumTiles][kColumns / 8][4] = {};
  float norm[2 * Tile::kSumTiles] = {};
  int stage = 0;
  copy(begin, stage);
  for (std::int64_t first = begin; first < end; first += Tile::kSumKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    load_transposed<Tile::kSumKeys, Tile::kSumKeyStride, Tile::kSumThreads>(
        raw, Tile::kStride, clamp_count(end - first, Tile::kSumKeys), call.dim, call.normalize, 1.0f, keys, partial);
    __syncthreads();
    copy(first + Tile::kSumKeys, stage ^ 1);
    const T* const tile = values + stage * Tile::kSumKeys * Tile::kStride;
#pragma unroll 1
    for (int step = 0; step < Tile::kSumKeys; step += 16) {
      std::uint32_t high[Tile::kSumTiles][4];
      std::uint32_t low[Tile::kSumTiles][4];
#pragma unroll
      for (int i = 0; i < 2 * Tile::kSumTiles; ++i) {
        const auto a = *reinterpret_cast<const Vector<float, 4>*>(keys + left[i] + step);
        const auto b = *reinterpret_cast<const Vector<float, 4>*>(keys + right[i] + step);
        float phi[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) phi[j] = a.values[j] * b.values[j];
        norm[i] += (phi[0] + phi[1]) + (phi[2] + phi[3]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int part = i % 2 + 2 * j;
          if constexpr (kExact) {
            high[i / 2][part] = split<T>(phi[2 * j], phi[2 * j + 1], low[i / 2][part]);
          } else {
            high[i / 2][part] = pack<T>(phi[2 * j], phi[2 * j + 1]);
          }
        }
      }
      const T* const from = tile + (step + row_of_lane(lane)) * Tile::kStride + lane / 16 * 8;
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        if (n * 16 >= call.value_dim) break;
        std::uint32_t v[4];
        ldmatrix_x4_trans(v, from + n * 16);
        const std::uint32_t first_half[2] = {v[0], v[1]};
        const std::uint32_t second_half[2] = {v[2], v[3]};
#pragma unroll
        for (int i = 0; i < Tile::kSumTiles; ++i) {
          mma_m16n8k16<T>(sum[i][2 * n], high[i], first_half);
          mma_m16n8k16<T>(sum[i][2 * n + 1], high[i], second_half);
          if constexpr (kExact) {
            mma_m16n8k16<T>(sum[i][2 * n], low[i], first_half);
            mma_m16n8k16<T>(sum[i][2 * n + 1], low[i], second_half);
          }
        }
      }
    }
  }
  cp_async_wait<0>();

  float* const slot = slot_of(call, local, segment);
  const int width = sum_width(call);
  const int pair = lane % 4 * 2;
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < 2 * Tile::kSumTiles; ++i) {
    const float total = reduce_quad(norm[i]);
    const int own = feature + 8 * i;
    if (own >= call.features) continue;
    if (lane % 4 == 0) slot[norm_offset(call) + own] = total;
    float* const row = slot + static_cast<std::int64_t>(own) * width;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      if (n * 8 >= width) break;
      const float* const own_sum = sum[i / 2][n] + i % 2 * 2;
      *reinterpret_cast<float2*>(row + n * 8 + pair) = float2{own_sum[0], own_sum[1]};
      if (own > 0) largest = fmaxf(largest, fmaxf(fabsf(own_sum[0]), fabsf(own_sum[1])));
    }
  }
  note_largest<Tile::kSumThreads>(largest, partial, slot + largest_offset(call, false) + blockIdx.x % tiles);
  if constexpr (kExact) {
    if (segment > 0) return;
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x % tiles) * Tile::kFeatures;
    const float* const state = call.state + (call.first_head + local) * call.features * call.value_dim;
    const std::int64_t last = min(first + Tile::kFeatures, std::int64_t{call.features}) * call.value_dim;
    largest = 0.0f;
    for (std::int64_t i = max(first, std::int64_t{1}) * call.value_dim + threadIdx.x; i < last;
         i += Tile::kSumThreads) {
      largest = fmaxf(largest, fabsf(state[i]));
    }
    note_largest<Tile::kSumThreads>(largest, partial, slot + largest_offset(call, true) + blockIdx.x % tiles);
  }
}

}  // namespace hsm::cuda
