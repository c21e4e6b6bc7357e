// The queries' side of TaylorShift on tensor cores; taylor_tensor.cuh says what is rounded where.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hsm_operators/taylor_shift/taylor_tensor.cuh"
#include "hsm_operators/taylor_shift/taylor_tensor_sums.cuh"

namespace hsm::cuda {

// What `attend` keeps for the queries of a warp: fragments of the sums. A thread has the queries g and g + 8 of each
// 16, for g = lane / 4.
template <typename T, int kColumns, bool kSums, bool kKeys>
struct TensorAttend {
  using Tile = TensorTile<kColumns>;
  static constexpr bool kCausal = kSums && kKeys;
  static constexpr int kOwn = 2 * Tile::kTiles;  // queries of a thread
  using Scores = float[Tile::kTiles][Tile::kKeys / 8][4];

  const TaylorCall& call;
  const Head<T>& head;
  unsigned char* shared;
  std::int64_t first_query;
  int lane;
  int first_row;       // of the warp's queries in the tile
  bool active;         // the warp has queries
  float weight_scale;  // of sum and total: a power of two that keeps weights in the range of T
  float sum[Tile::kTiles][kColumns / 8][4];
  float total[kOwn];

  __device__ TensorAttend(const TaylorCall& own_call, const Head<T>& own_head, std::int64_t first,
                          unsigned char* memory)
      : call(own_call), head(own_head), shared(memory), first_query(first), sum{}, total{} {
    lane = static_cast<int>(threadIdx.x) % 32;
    first_row = static_cast<int>(threadIdx.x) / 32 * 16 * Tile::kTiles;
    active = first_query + first_row < head.valid;
    weight_scale = 1.0f;
    if constexpr (kKeys && std::is_same_v<T, __half>) {
      const float bound = taylor_weight(fabsf(head.temperature));
      while (bound * weight_scale > 32768.0f && weight_scale > 0x1p-100f) weight_scale *= 0.5f;
    }
  }

  // Where the thread's query is in the tile.
  __device__ int row(int own) const { return first_row + 8 * own + lane / 4; }

  __device__ void add_constant(const float* slot) {
    const float norm = weight_scale * slot[norm_offset(call)];
#pragma unroll
    for (int own = 0; own < kOwn; ++own) total[own] += norm;
    const int width = sum_width(call);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      if (n * 8 >= width) break;
      const float2 constant = *reinterpret_cast<const float2*>(slot + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        sum[own / 2][n][own % 2 * 2] += weight_scale * constant.x;
        sum[own / 2][n][own % 2 * 2 + 1] += weight_scale * constant.y;
      }
    }
  }

  // Writes what each row of a tile has to be multiplied with to get the length `scale`.
  template <int kRowCount>
  __device__ void find_factors(const T* tile, float scale, float* factors) {
    constexpr int kParts = Tile::kThreads / kRowCount;
    const int own = static_cast<int>(threadIdx.x) / kParts;
    const int part = static_cast<int>(threadIdx.x) % kParts;
    float squares = 0.0f;
#pragma unroll
    for (int column = part * 8; column < kColumns; column += kParts * 8) {  // zero beyond the width
      const auto vector = *reinterpret_cast<const Vector<T>*>(tile + own * Tile::kStride + column);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares += to_float(vector.values[j]) * to_float(vector.values[j]);
    }
#pragma unroll
    for (int flip = 1; flip < kParts; flip *= 2) squares += __shfl_xor_sync(0xffffffffU, squares, flip);
    if (part == 0) factors[own] = call.normalize ? normalizing_factor(squares, scale) : 1.0f;
  }

  // The products of the warp's queries with a tile of keys.
  __device__ void multiply_keys(const T* queries, const T* keys, Scores& scores) {
    const T* const from = queries + (first_row + lane % 16) * Tile::kStride + lane / 16 * 8;
    const T* const key = keys + (lane % 8 + lane / 16 * 8) * Tile::kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kColumns; k += 16) {
      if (k >= call.dim) break;
      std::uint32_t a[Tile::kTiles][4];
#pragma unroll
      for (int tile = 0; tile < Tile::kTiles; ++tile) ldmatrix_x4(a[tile], from + tile * 16 * Tile::kStride + k);
#pragma unroll
      for (int n = 0; n < Tile::kKeys / 16; ++n) {
        std::uint32_t b[4];
        ldmatrix_x4(b, key + n * 16 * Tile::kStride + k);
        const std::uint32_t first_half[2] = {b[0], b[1]};
        const std::uint32_t second_half[2] = {b[2], b[3]};
#pragma unroll
        for (int tile = 0; tile < Tile::kTiles; ++tile) {
          mma_m16n8k16<T>(scores[tile][2 * n], a[tile], first_half);
          mma_m16n8k16<T>(scores[tile][2 * n + 1], a[tile], second_half);
        }
      }
    }
  }

  // Turns products, of queries of the length 1 / factors[own], into weights. Of a masked tile the first `exist` keys
  // count, when causal only the first `seen` for the thread's first query, and 8 more for each further one.
  template <bool kMasked>
  __device__ void weigh(const float (&factors)[kOwn], const float* key_factors, int exist, int seen, Scores& scores) {
    float linear[kOwn];
    float square[kOwn];
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      linear[own] = weight_scale * factors[own];
      square[own] = 0.5f * linear[own] * factors[own];
    }
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
      const int key = n * 8 + lane % 4 * 2;
      const auto pair = *reinterpret_cast<const Vector<float, 2>*>(key_factors + key);
#pragma unroll
      for (int i = 0; i < 2 * kOwn; ++i) {
        const int own = i / 2;
        float& score = scores[own / 2][n][own % 2 * 2 + i % 2];
        const float product = score * pair.values[i % 2];
        score = (square[own] * product + linear[own]) * product + weight_scale;
        if (kMasked && key + i % 2 >= (kCausal ? min(exist, seen + 8 * own) : exist)) score = 0.0f;
        total[own] += score;
      }
    }
  }

  // Adds weights times a tile of values.
  __device__ void multiply_values(const Scores& weights, const T* values) {
    const T* const from = values + lane % 16 * Tile::kStride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < Tile::kKeys / 16; ++k) {
      std::uint32_t a[Tile::kTiles][4];
#pragma unroll
      for (int i = 0; i < 4 * Tile::kTiles; ++i) {
        const float* const own = weights[i / 4][2 * k + i % 4 / 2] + i % 2 * 2;
        a[i / 4][i % 4] = pack<T>(own[0], own[1]);
      }
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        if (n * 16 >= call.value_dim) break;
        std::uint32_t v[4];
        ldmatrix_x4_trans(v, from + k * 16 * Tile::kStride + n * 16);
        const std::uint32_t first_half[2] = {v[0], v[1]};
        const std::uint32_t second_half[2] = {v[2], v[3]};
#pragma unroll
        for (int tile = 0; tile < Tile::kTiles; ++tile) {
          mma_m16n8k16<T>(sum[tile][2 * n], a[tile], first_half);
          mma_m16n8k16<T>(sum[tile][2 * n + 1], a[tile], second_half);
        }
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
    // Keys are counted from `begin` on.
    const int key_count = static_cast<int>(end - begin);
    const auto copy = [&](const T* from, std::int64_t stride, int width, int first, T* to) {
      const int count = min(key_count - first, Tile::kKeys);
      copy_rows<Tile::kKeys, kColumns, Tile::kThreads>(from + (begin + (count > 0 ? first : 0)) * stride, stride, count,
                                                       width, to);
      cp_async_commit();
    };
    const auto copy_keys = [&](int first) { copy(head.k, head.stride, call.dim, first, keys); };
    const auto copy_values = [&](int first) { copy(head.v, head.value_stride, call.value_dim, first, values); };
    copy_rows<Tile::kQueries, kColumns, Tile::kThreads>(head.q + first_query * head.stride, head.stride,
                                                        clamp_count(head.valid - first_query, Tile::kQueries), call.dim,
                                                        queries);
    copy_keys(0);
    copy_values(0);
    cp_async_wait<1>();
    __syncthreads();
    find_factors<Tile::kQueries>(queries, head.temperature, query_factors);
    __syncthreads();
    float factors[kOwn];
#pragma unroll
    for (int own = 0; own < kOwn; ++own) factors[own] = query_factors[row(own)];
    // Keys that the warp's first query sees, and those that any of its queries does.
    const int own = static_cast<int>(first_query - begin) + first_row;
    const int seen_by_all = kCausal ? min(key_count, own + 1) : key_count;
    const int seen = kCausal ? min(key_count, own + 16 * Tile::kTiles) : key_count;
    for (int first = 0; first < key_count; first += Tile::kKeys) {
      const bool needed = active && first < seen;
      Scores scores = {};
      find_factors<Tile::kKeys>(keys, 1.0f, key_factors);
      if (needed) multiply_keys(queries, keys, scores);
      cp_async_wait<0>();
      __syncthreads();  // values are there, keys are no longer read
      copy_keys(first + Tile::kKeys);
      if (needed) {
        if (first + Tile::kKeys <= seen_by_all) {
          weigh<false>(factors, key_factors, 0, 0, scores);
        } else {
          weigh<true>(factors, key_factors, key_count - first, own + lane / 4 + 1 - first, scores);
        }
        multiply_values(scores, values);
      }
      cp_async_wait<0>();
      __syncthreads();  // keys are there, values are no longer read
      copy_values(first + Tile::kKeys);
    }
    cp_async_wait<0>();
  }

  __device__ void scale_sums() {
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      total[own] *= weight_scale;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        sum[own / 2][n][own % 2 * 2] *= weight_scale;
        sum[own / 2][n][own % 2 * 2 + 1] *= weight_scale;
      }
    }
  }

  // Divides by the weights and writes; padding becomes zero.
  __device__ void store() {
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      const std::int64_t query = first_query + row(own);
      if (query >= head.length) continue;
      const bool exists = query < head.valid;
      const float factor = head.scale / total[own];
      T* const to = head.y + query * head.value_stride;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = n * 8 + lane % 4 * 2 + j;
          const float value = sum[own / 2][n][own % 2 * 2 + j] * factor;
          if (column < call.value_dim) to[column] = from_float<T>(exists ? value : 0.0f);
        }
      }
    }
  }
};

// Queries of one tile, by sums (the efficient form), by keys (the direct form), or by both (causal: sums of what came
// before the segment, keys within it). Grid: query tiles × heads.
template <typename T, int kColumns, bool kSums, bool kKeys>
__global__ void __launch_bounds__(128, TensorTile<kColumns>::attend_blocks(kKeys))
    taylor_attend_tensor(TaylorCall call) {
  using Tile = TensorTile<kColumns>;
  HSM_DYNAMIC_SHARED(unsigned char, shared);
  const std::int64_t tiles = (call.length + Tile::kQueries - 1) / Tile::kQueries;
  const std::int64_t local = blockIdx.x / tiles;
  const Head<T> head(call, local);
  using Attend = TensorAttend<T, kColumns, kSums, kKeys>;
  Attend tile(call, head, blockIdx.x % tiles * Tile::kQueries, shared);
  if (tile.first_query < head.valid) {
    const std::int64_t segment = Attend::kCausal ? tile.first_query / call.segment_length : 0;
    if constexpr (kSums) {
      TensorSums<T, kColumns> sums(call, slot_of(call, local, segment), shared);
      sums.add(head, tile.first_query, tile.sum, tile.total);
    }
    if constexpr (Attend::kCausal) {
      tile.scale_sums();
      tile.add_keys(segment * call.segment_length, min(tile.first_query + Tile::kQueries, head.valid));
    } else if constexpr (kKeys) {
      tile.add_keys(0, head.valid);
    }
#pragma unroll
    for (float& total : tile.total) total = reduce_quad(total);
    if constexpr (kSums) tile.add_constant(slot_of(call, local, segment));
  }
  tile.store();
}

}  // namespace hsm::cuda
