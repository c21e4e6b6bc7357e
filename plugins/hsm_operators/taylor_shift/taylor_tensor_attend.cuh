// The queries' side of TaylorShift on tensor cores; taylor_tensor.cuh says what is rounded where.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hsm_operators/taylor_shift/taylor_tensor.cuh"

namespace hsm::cuda {

// What `attend` keeps for the 16 queries of a warp: fragments of the sums, rows g and g + 8 of a thread, where
// g = lane / 4.
template <typename T, int kColumns, bool kSums, bool kKeys>
struct TensorAttend {
  using Tile = TensorTile<kColumns>;
  static constexpr bool kCausal = kSums && kKeys;

  const TaylorCall& call;
  const Head<T>& head;
  unsigned char* shared;
  std::int64_t first_query;
  int lane;
  int row;             // of the thread's first query in the tile
  float weight_scale;  // of sum: a power of two that keeps weights in the range of T
  float sum[kColumns / 8][4];
  float total[2];

  __device__ TensorAttend(const TaylorCall& own_call, const Head<T>& own_head, std::int64_t first,
                          unsigned char* memory)
      : call(own_call), head(own_head), shared(memory), first_query(first), sum{}, total{} {
    lane = static_cast<int>(threadIdx.x) % 32;
    row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    weight_scale = 1.0f;
    if constexpr (kKeys && std::is_same_v<T, __half>) {
      const float bound = taylor_weight(fabsf(head.temperature));
      while (bound * weight_scale > 32768.0f && weight_scale > 0x1p-100f) weight_scale *= 0.5f;
    }
  }

  // Copies rows of sums from `first` on, with their normalisers and where their features are in the tile of queries.
  __device__ void copy_sums(const float* slot, int first, __nv_bfloat16* planes, float* norms, int2* rows) {
    constexpr int kChunks = kColumns / 8;
    const int width = sum_width(call);
    for (int i = static_cast<int>(threadIdx.x); i < 2 * Tile::kRows * kChunks; i += Tile::kThreads) {
      const int plane = i / (Tile::kRows * kChunks);
      const int r = i / kChunks % Tile::kRows;
      const int column = i % kChunks * 8;
      const bool exists = first + r < call.features && column < width;
      const auto* const from =
          reinterpret_cast<const __nv_bfloat16*>(slot + (exists ? (first + r) * std::int64_t{width} : 0));
      cp_async_16(planes + (plane * Tile::kRows + r) * Tile::kStride + column,
                  exists ? from + plane * width + column : from, exists ? 16 : 0);
    }
    const int i = static_cast<int>(threadIdx.x);
    if (i < Tile::kRows) {
      const FeatureRows own = feature_rows(first + i, call.features, call.dim);
      rows[i] = int2{own.first * Tile::kQueryStride, own.second * Tile::kQueryStride};
      norms[i] = first + i < call.features ? slot[norm_offset(call) + first + i] : 0.0f;
    }
    cp_async_commit();
  }

  // Adds phi(queries) times 16 rows of sums.
  __device__ void multiply_sums(const float* queries, const __nv_bfloat16* planes, const float* norms,
                                const int2* rows) {
    std::uint32_t high[4];
    std::uint32_t low[4];
    const int feature = lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const own = queries + row + i % 2 * 8;
      float phi[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int f = feature + i / 2 * 8 + j;
        phi[j] = own[rows[f].x] * own[rows[f].y];
        total[i % 2] += phi[j] * norms[f];
      }
      high[i] = split<__nv_bfloat16>(phi[0], phi[1], low[i]);
    }
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      if (n * 16 >= call.value_dim) break;
      std::uint32_t upper[4];
      std::uint32_t lower[4];
      const __nv_bfloat16* const from = planes + lane % 16 * Tile::kStride + n * 16 + lane / 16 * 8;
      ldmatrix_x4_trans(upper, from);
      ldmatrix_x4_trans(lower, from + Tile::kRows * Tile::kStride);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t b[2] = {upper[2 * half], upper[2 * half + 1]};
        const std::uint32_t b_low[2] = {lower[2 * half], lower[2 * half + 1]};
        mma_m16n8k16<__nv_bfloat16>(sum[2 * n + half], high, b);
        mma_m16n8k16<__nv_bfloat16>(sum[2 * n + half], low, b);
        mma_m16n8k16<__nv_bfloat16>(sum[2 * n + half], high, b_low);
      }
    }
  }

  // Adds phi(queries) times the sums, but for row 0, which add_constant adds last: it is the largest term.
  __device__ void add_sums(const float* slot) {
    float* const queries = reinterpret_cast<float*>(shared);
    float* const partial = reinterpret_cast<float*>(shared + Tile::rounded((call.dim + 2) * Tile::kQueryStride));
    auto* const planes = reinterpret_cast<__nv_bfloat16*>(partial + Tile::kThreads);
    float* const norms = reinterpret_cast<float*>(planes + Tile::kStages * 2 * Tile::kRows * Tile::kStride);
    auto* const rows = reinterpret_cast<int2*>(norms + Tile::kStages * Tile::kRows);
    const auto copy = [&](int first, int stage) {
      copy_sums(slot, first, planes + stage * 2 * Tile::kRows * Tile::kStride, norms + stage * Tile::kRows,
                rows + stage * Tile::kRows);
    };
    copy(1, 0);
    load_transposed<Tile::kQueries, Tile::kQueryStride, Tile::kThreads>(
        head.q + first_query * head.stride, head.stride, clamp_count(head.valid - first_query, Tile::kQueries),
        call.dim, call.normalize, head.temperature, queries, partial);
    int stage = 0;
    for (int first = 1; first < call.features; first += Tile::kRows) {
      cp_async_wait<0>();
      __syncthreads();
      if constexpr (Tile::kStages == 2) copy(first + Tile::kRows, stage ^ 1);
#pragma unroll 1
      for (int step = 0; step < Tile::kRows; step += 16) {
        multiply_sums(queries, planes + (stage * 2 * Tile::kRows + step) * Tile::kStride,
                      norms + stage * Tile::kRows + step, rows + stage * Tile::kRows + step);
      }
      if constexpr (Tile::kStages == 2) {
        stage ^= 1;
      } else {
        __syncthreads();
        copy(first + Tile::kRows, 0);
      }
    }
    cp_async_wait<0>();
    __syncthreads();
  }

  __device__ void add_constant(const float* slot) {
    const float norm = slot[norm_offset(call)];
    total[0] += norm;
    total[1] += norm;
    const int width = sum_width(call);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      if (n * 8 >= width) break;
      const float2 constant = *reinterpret_cast<const float2*>(slot + n * 8 + lane % 4 * 2);
      sum[n][0] += weight_scale * constant.x;
      sum[n][1] += weight_scale * constant.y;
      sum[n][2] += weight_scale * constant.x;
      sum[n][3] += weight_scale * constant.y;
    }
  }

  // Writes what each row of a tile has to be multiplied with to get the length `scale`.
  template <int kRowCount>
  __device__ void find_factors(const T* tile, float scale, float* factors) {
    constexpr int kParts = Tile::kThreads / kRowCount;
    const int own = static_cast<int>(threadIdx.x) / kParts;
    const int part = static_cast<int>(threadIdx.x) % kParts;
    float squares = 0.0f;
    for (int column = part * 8; column < call.dim; column += kParts * 8) {
      const auto vector = *reinterpret_cast<const Vector<T>*>(tile + own * Tile::kStride + column);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares += to_float(vector.values[j]) * to_float(vector.values[j]);
    }
#pragma unroll
    for (int flip = 1; flip < kParts; flip *= 2) squares += __shfl_xor_sync(0xffffffffU, squares, flip);
    if (part == 0) factors[own] = call.normalize ? normalizing_factor(squares, scale) : 1.0f;
  }

  // The products of the warp's queries with a tile of keys.
  __device__ void multiply_keys(const T* queries, const T* keys, float (&scores)[Tile::kKeys / 8][4]) {
    const T* const from =
        queries + (static_cast<int>(threadIdx.x) / 32 * 16 + lane % 16) * Tile::kStride + lane / 16 * 8;
#pragma unroll 1
    for (int k = 0; k < call.dim; k += 16) {
      std::uint32_t a[4];
      ldmatrix_x4(a, from + k);
#pragma unroll
      for (int n = 0; n < Tile::kKeys / 16; ++n) {
        std::uint32_t b[4];
        ldmatrix_x4(b, keys + (n * 16 + lane % 8 + lane / 16 * 8) * Tile::kStride + k + lane / 8 % 2 * 8);
        const std::uint32_t first_half[2] = {b[0], b[1]};
        const std::uint32_t second_half[2] = {b[2], b[3]};
        mma_m16n8k16<T>(scores[2 * n], a, first_half);
        mma_m16n8k16<T>(scores[2 * n + 1], a, second_half);
      }
    }
  }

  // Turns products into weights; `limits` is how many keys of the tile count for each of the thread's queries.
  __device__ void weigh(const float (&query_factors)[2], const float* key_factors, const int (&limits)[2],
                        float (&scores)[Tile::kKeys / 8][4]) {
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = n * 8 + lane % 4 * 2 + i % 2;
        const float weight =
            key < limits[i / 2] ? taylor_weight(scores[n][i] * query_factors[i / 2] * key_factors[key]) : 0.0f;
        total[i / 2] += weight;
        scores[n][i] = weight * weight_scale;
      }
    }
  }

  // Adds weights times a tile of values.
  __device__ void multiply_values(const float (&weights)[Tile::kKeys / 8][4], const T* values) {
#pragma unroll
    for (int k = 0; k < Tile::kKeys / 16; ++k) {
      std::uint32_t high[4];
      std::uint32_t low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const own = weights[2 * k + i / 2] + i % 2 * 2;
        high[i] = split<T>(own[0], own[1], low[i]);
      }
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        if (n * 16 >= call.value_dim) break;
        std::uint32_t v[4];
        ldmatrix_x4_trans(v, values + (k * 16 + lane % 16) * Tile::kStride + n * 16 + lane / 16 * 8);
        const std::uint32_t first_half[2] = {v[0], v[1]};
        const std::uint32_t second_half[2] = {v[2], v[3]};
        mma_m16n8k16<T>(sum[2 * n], high, first_half);
        mma_m16n8k16<T>(sum[2 * n], low, first_half);
        mma_m16n8k16<T>(sum[2 * n + 1], high, second_half);
        mma_m16n8k16<T>(sum[2 * n + 1], low, second_half);
      }
    }
  }

  // Adds the keys begin..end-1 by the polynomial. Keys of the next step are copied while values of this one are
  // multiplied, and the other way round.
  __device__ void add_keys(std::int64_t begin, std::int64_t end) {
    T* const queries = reinterpret_cast<T*>(shared);
    T* const keys = queries + Tile::kQueries * Tile::kStride;
    T* const values = keys + Tile::kKeys * Tile::kStride;
    float* const query_factors = reinterpret_cast<float*>(values + Tile::kKeys * Tile::kStride);
    float* const key_factors = query_factors + Tile::kQueries;
    const auto copy = [&](const T* from, std::int64_t stride, int width, std::int64_t first, T* to) {
      const int count = clamp_count(end - first, Tile::kKeys);
      copy_rows<Tile::kKeys, kColumns, Tile::kThreads>(from + (count > 0 ? first * stride : 0), stride, count, width,
                                                       to);
      cp_async_commit();
    };
    const auto copy_keys = [&](std::int64_t first) { copy(head.k, head.stride, call.dim, first, keys); };
    const auto copy_values = [&](std::int64_t first) {
      copy(head.v, head.value_stride, call.value_dim, first, values);
    };
    copy_rows<Tile::kQueries, kColumns, Tile::kThreads>(head.q + first_query * head.stride, head.stride,
                                                        clamp_count(head.valid - first_query, Tile::kQueries), call.dim,
                                                        queries);
    copy_keys(begin);
    copy_values(begin);
    cp_async_wait<1>();
    __syncthreads();
    find_factors<Tile::kQueries>(queries, head.temperature, query_factors);
    __syncthreads();
    const float factors[2] = {query_factors[row], query_factors[row + 8]};
    for (std::int64_t first = begin; first < end; first += Tile::kKeys) {
      float scores[Tile::kKeys / 8][4] = {};
      find_factors<Tile::kKeys>(keys, 1.0f, key_factors);
      multiply_keys(queries, keys, scores);
      __syncthreads();
      copy_keys(first + Tile::kKeys);
      int limits[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::int64_t limit = kCausal ? min(end, first_query + row + 8 * i + 1) : end;
        limits[i] = clamp_count(limit - first, Tile::kKeys);
      }
      weigh(factors, key_factors, limits, scores);
      cp_async_wait<1>();
      __syncthreads();
      multiply_values(scores, values);
      cp_async_wait<0>();
      __syncthreads();
      copy_values(first + Tile::kKeys);
    }
    cp_async_wait<0>();
  }

  __device__ void scale_sums() {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] *= weight_scale;
    }
  }

  // Divides by the weights and writes; padding becomes zero.
  __device__ void store() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t query = first_query + row + 8 * half;
      if (query >= head.length) continue;
      const bool exists = query < head.valid;
      const float factor = head.scale / (total[half] * weight_scale);
      T* const to = head.y + query * head.value_stride;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = n * 8 + lane % 4 * 2 + j;
          if (column < call.value_dim) to[column] = from_float<T>(exists ? sum[n][2 * half + j] * factor : 0.0f);
        }
      }
    }
  }
};

// Queries of one tile, by sums (the efficient form), by keys (the direct form), or by both (causal: sums of what came
// before the segment, keys within it). Grid: query tiles × heads.
template <typename T, int kColumns, bool kSums, bool kKeys>
__global__ void __launch_bounds__(128, TensorTile<kColumns>::kBlocks) taylor_attend_tensor(TaylorCall call) {
  using Tile = TensorTile<kColumns>;
  HSM_DYNAMIC_SHARED(unsigned char, shared);
  const std::int64_t tiles = (call.length + Tile::kQueries - 1) / Tile::kQueries;
  const std::int64_t local = blockIdx.x / tiles;
  const Head<T> head(call, local);
  using Attend = TensorAttend<T, kColumns, kSums, kKeys>;
  Attend tile(call, head, blockIdx.x % tiles * Tile::kQueries, shared);
  if (tile.first_query < head.valid) {
    const std::int64_t segment = Attend::kCausal ? tile.first_query / call.segment_length : 0;
    if constexpr (kSums) tile.add_sums(slot_of(call, local, segment));
    if constexpr (Attend::kCausal) {
      tile.scale_sums();
      tile.add_keys(segment * call.segment_length, min(tile.first_query + Tile::kQueries, head.valid));
    } else if constexpr (kKeys) {
      tile.add_keys(0, head.valid);
    }
    tile.total[0] = reduce_quad(tile.total[0]);
    tile.total[1] = reduce_quad(tile.total[1]);
    if constexpr (kSums) tile.add_constant(slot_of(call, local, segment));
  }
  tile.store();
}

}  // namespace hsm::cuda
