// The queries' side of TaylorShift in float32 arithmetic.
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/taylor_simt.cuh"

namespace hsm::cuda {

// What `attend` keeps for a tile of queries: in registers the sums and in shared memory the tiles.
template <typename T, int kColumns, bool kCausal>
struct SimtAttend {
  using Tile = SimtTile<kColumns>;

  const TaylorCall& call;
  const Head<T>& head;
  std::int64_t first_query;
  float* queries;  // (dim + 2, kQueryStride)
  float* keys;     // (dim + 2, kKeyStride)
  float* values;   // (kKeys, kValueStride): values, or rows of sums
  float* weights;  // (kKeys, kQueryStride): p(q·k), or features of queries
  float* partial;  // (kThreads)
  float* norms;    // (kKeys)
  int2* rows;      // (2, kKeys)
  float sum[Tile::kOwnQueries][Tile::kOwnColumns];
  float total[Tile::kOwnQueries];

  __device__ SimtAttend(const TaylorCall& own_call, const Head<T>& own_head, std::int64_t first, float* shared)
      : call(own_call), head(own_head), first_query(first), sum{}, total{} {
    queries = shared;
    keys = queries + Tile::rounded((call.dim + 2) * Tile::kQueryStride);
    values = keys + Tile::rounded((call.dim + 2) * Tile::kKeyStride);
    weights = values + Tile::kKeys * Tile::kValueStride;
    partial = weights + Tile::kKeys * Tile::kQueryStride;
    norms = partial + Tile::kThreads;
    rows = reinterpret_cast<int2*>(norms + Tile::kKeys);
  }

  __device__ void load_queries() {
    const int count = clamp_count(head.valid - first_query, Tile::kQueries);
    load_transposed<Tile::kQueries, Tile::kQueryStride, Tile::kThreads>(head.q + first_query * head.stride, head.stride,
                                                                        count, call.dim, call.normalize,
                                                                        head.temperature, queries, partial);
    __syncthreads();
  }

  // Writes where the features of a step from `first` on are in the tile of queries.
  __device__ void find_rows(int first, int2* to) const {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= Tile::kKeys) return;
    const FeatureRows own = feature_rows(first + i, call.features, call.dim);
    to[i] = int2{own.first * Tile::kQueryStride, own.second * Tile::kQueryStride};
  }

  // Adds phi(queries) times the sums, row 0 last: it is the largest term.
  __device__ void add_sums(const float* slot) {
    const std::int64_t width = sum_width(call);
    const float* const norm = slot + norm_offset(call);
    const int thread = static_cast<int>(threadIdx.x);
    const float* const query = queries + thread % Tile::kQueries;
    find_rows(1, rows);
    __syncthreads();
    int parity = 0;
    for (int first = 1; first < call.features; first += Tile::kKeys, parity ^= 1) {
      const int count = clamp_count(call.features - first, Tile::kKeys);
      load_rows<Tile::kKeys, kColumns, Tile::kThreads>(slot + first * width, width, count, static_cast<int>(width),
                                                       values);
      if (thread < Tile::kKeys) norms[thread] = thread < count ? norm[first + thread] : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::kKeys; i += Tile::kThreads / Tile::kQueries) {
        const int feature = i + thread / Tile::kQueries;
        const int2 own = rows[parity * Tile::kKeys + feature];
        weights[feature * Tile::kQueryStride + thread % Tile::kQueries] = query[own.x] * query[own.y];
      }
      find_rows(first + Tile::kKeys, rows + (parity ^ 1) * Tile::kKeys);
      __syncthreads();
      multiply(weights, Tile::kQueryStride, values, Tile::kValueStride, Tile::kKeys, call.value_dim, sum);
      multiply_column(weights, Tile::kQueryStride, norms, Tile::kKeys, total);
      __syncthreads();
    }
  }

  // Adds the constant feature's row of the sums.
  __device__ void add_constant(const float* slot) {
    const int lane = static_cast<int>(threadIdx.x) % Tile::kSide;
    const float norm = slot[norm_offset(call)];
#pragma unroll
    for (int c = 0; c < Tile::kOwnColumns; ++c) {
      const int column = (c / Tile::kVector * Tile::kSide + lane) * Tile::kVector + c % Tile::kVector;
      const float constant = column < call.value_dim ? slot[column] : 0.0f;
#pragma unroll
      for (int r = 0; r < Tile::kOwnQueries; ++r) sum[r][c] += constant;
    }
#pragma unroll
    for (int r = 0; r < Tile::kOwnQueries; ++r) total[r] += norm;
  }

  // Turns the scores of this thread into weights, in shared memory. Keys from `end` on do not count.
  __device__ void store_weights(const float (&scores)[Tile::kOwnQueries][Tile::kOwnKeys], std::int64_t first_key,
                                std::int64_t end) {
    const int row = static_cast<int>(threadIdx.x) / Tile::kSide * Tile::kOwnQueries;
    const int column = static_cast<int>(threadIdx.x) % Tile::kSide * Tile::kOwnKeys;
    const int count = clamp_count(end - first_key, Tile::kKeys);
    // How many keys of the step come no later than the thread's first query.
    const int seen = static_cast<int>(min(first_query + row + 1 - first_key, std::int64_t{Tile::kKeys}));
#pragma unroll
    for (int c = 0; c < Tile::kOwnKeys; ++c) {
      Floats<Tile::kOwnQueries> own;
#pragma unroll
      for (int r = 0; r < Tile::kOwnQueries; ++r) {
        const int key = column + c;
        const bool counts = key < count && (!kCausal || key < seen + r);
        own.values[r] = counts ? taylor_weight(scores[r][c]) : 0.0f;
        total[r] += own.values[r];
      }
      *reinterpret_cast<Floats<Tile::kOwnQueries>*>(weights + (column + c) * Tile::kQueryStride + row) = own;
    }
  }

  // Adds the keys begin..end-1 by the polynomial.
  __device__ void add_keys(std::int64_t begin, std::int64_t end) {
    for (std::int64_t first = begin; first < end; first += Tile::kKeys) {
      const int count = clamp_count(end - first, Tile::kKeys);
      load_transposed<Tile::kKeys, Tile::kKeyStride, Tile::kThreads>(head.k + first * head.stride, head.stride, count,
                                                                     call.dim, call.normalize, 1.0f, keys, partial);
      load_rows<Tile::kKeys, kColumns, Tile::kThreads>(head.v + first * head.value_stride, head.value_stride, count,
                                                       call.value_dim, values);
      __syncthreads();
      float scores[Tile::kOwnQueries][Tile::kOwnKeys] = {};
      multiply(queries, Tile::kQueryStride, keys, Tile::kKeyStride, call.dim, Tile::kKeys, scores);
      store_weights(scores, first, end);
      __syncthreads();
      multiply(weights, Tile::kQueryStride, values, Tile::kValueStride, Tile::kKeys, call.value_dim, sum);
      __syncthreads();
    }
  }

  // Divides by the weights and writes; padding becomes zero.
  __device__ void store() {
    const int lane = static_cast<int>(threadIdx.x) % Tile::kSide;
#pragma unroll
    for (int r = 0; r < Tile::kOwnQueries; ++r) {
      const std::int64_t query = first_query + static_cast<int>(threadIdx.x) / Tile::kSide * Tile::kOwnQueries + r;
      if (query >= head.length) break;
      const bool exists = query < head.valid;
      const float factor = head.scale / total[r];
#pragma unroll
      for (int c = 0; c < Tile::kOwnColumns; ++c) {
        const int column = (c / Tile::kVector * Tile::kSide + lane) * Tile::kVector + c % Tile::kVector;
        if (column < call.value_dim) {
          head.y[query * head.value_stride + column] = from_float<T>(exists ? sum[r][c] * factor : 0.0f);
        }
      }
    }
  }
};

// Queries of one tile, by sums (the efficient form), by keys (the direct form), or by both (causal: sums of what came
// before the segment, keys within it). Grid: query tiles × heads.
template <typename T, int kColumns, bool kSums, bool kKeys>
__global__ void __launch_bounds__(256, 2) taylor_attend_simt(TaylorCall call) {
  using Tile = SimtTile<kColumns>;
  constexpr bool kCausal = kSums && kKeys;
  HSM_DYNAMIC_SHARED(float, shared);
  const std::int64_t tiles = (call.length + Tile::kQueries - 1) / Tile::kQueries;
  const std::int64_t local = blockIdx.x / tiles;
  const Head<T> head(call, local);
  SimtAttend<T, kColumns, kCausal> tile(call, head, blockIdx.x % tiles * Tile::kQueries, shared);
  if (tile.first_query < head.valid) {
    const std::int64_t segment = kCausal ? tile.first_query / call.segment_length : 0;
    tile.load_queries();
    if constexpr (kSums) tile.add_sums(slot_of(call, local, segment));
    if constexpr (kCausal) {
      tile.add_keys(segment * call.segment_length, min(tile.first_query + Tile::kQueries, head.valid));
    } else if constexpr (kKeys) {
      tile.add_keys(0, head.valid);
    }
    reduce_row(tile.total);
    if constexpr (kSums) tile.add_constant(slot_of(call, local, segment));
  }
  tile.store();
}

}  // namespace hsm::cuda
