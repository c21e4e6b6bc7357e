// CausalTaylorShift for a few tokens: each row of the state is read once, takes in the tokens one after another,
// answers each query on the way, and is written once, in place if the caller likes.
//
// Blocks own slices of rows, so nothing is read that another block writes. What the slices add to y meets in the
// workspace and is added in their order by a second kernel.
//
// For n tokens and one head, F = 1 + d + d(d+1)/2: bytes 8·F·(e+1) for the state and 8·n·slices·(e+1) for the parts;
// flops 4·n·F·(e+1). At n = 1 that is half a flop a byte: the bound is memory.
// Shared memory 4·tokens·(2·d + 9·e + 14) bytes for 1 or 8 tokens. Registers (nvcc 13.0, most of the three types and
// seven architectures; no spills) for aligned rows of up to 128 and 256 columns, and for all others: 64, 96, 116 with
// one token, 128, 190, 198 with eight (128 before Blackwell); the second kernel 44.
//
// Longer calls run the kernels of taylor_simt.cuh or taylor_tensor.cuh: for N tokens and segments of L, flops
// 4·N·F·(e+1) + N·L·(d+e), and bytes 8·F·(e+1) for the state and 16·N/L·F·(e+1) for the sums of segments.
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/taylor_features.cuh"

namespace hsm::cuda {

inline constexpr int kStepThreads = 256;
inline constexpr int kStepWarps = kStepThreads / 32;

// Floats of one slice's part of y and its weights, for each token.
__host__ __device__ constexpr std::int64_t step_part(int value_dim) { return value_dim + 1; }

constexpr std::size_t step_shared_bytes(int dim, int value_dim, int tokens) {
  return sizeof(float) * static_cast<std::size_t>(tokens) *
         static_cast<std::size_t>(2 * (dim + 2) + value_dim + 2 + kStepWarps * (value_dim + 1));
}

// Blocks of a step that the launcher counts on for each multiprocessor.
inline constexpr int kStepBlocks = 4;

// Floats of a row of the state that a lane loads at once, and how often: `kFloats` times `kLoads` on 32 lanes are a row
// of any width.
template <int kFloats_, int kLoads_>
struct RowLoads {
  static constexpr int kFloats = kFloats_;
  static constexpr int kLoads = kLoads_;
  static constexpr int kColumns = kFloats * kLoads;
};
using NarrowRows = RowLoads<4, 1>;  // up to 128 columns, a multiple of 4, aligned
using WideRows = RowLoads<4, 2>;    // up to 256, likewise
using AnyRows = RowLoads<1, 8>;     // up to 256

// Two blocks of eight tokens and the widest rows leave Blackwell's compiler a few registers too few.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
inline constexpr int kWideStepBlocks = 1;
#else
inline constexpr int kWideStepBlocks = 2;
#endif

// Blocks of a multiprocessor that registers must allow; 0 leaves it to the compiler.
constexpr int step_blocks(int tokens, int columns) {
  if (tokens == 1) return columns > 4 ? 2 : kStepBlocks;
  return columns > 4 ? kWideStepBlocks : 0;
}

// Adds up what the lanes of a warp hold.
__device__ __forceinline__ float reduce_warp(float value) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value += __shfl_xor_sync(0xffffffffU, value, flip);
  return value;
}

// One warp reads a token's row of `dim` elements, followed by 1 and 0 as in a tile of features, scaled when
// `normalize`.
template <typename T>
__device__ __forceinline__ void load_token(const T* from, int dim, bool normalize, float scale, float* to) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float squares = 0.0f;
  for (int i = lane; i < dim; i += 32) squares += to_float(from[i]) * to_float(from[i]);
  const float factor = normalize ? normalizing_factor(reduce_warp(squares), scale) : 1.0f;
  for (int i = lane; i < dim; i += 32) to[i] = to_float(from[i]) * factor;
  if (lane == 0) to[dim] = 1.0f;
  if (lane == 1) to[dim + 1] = 0.0f;
}

// Walks through features that are a fixed step apart without dividing.
class FeatureWalk {
 public:
  __device__ FeatureWalk(int feature, int step, int dim) : feature_(feature), dim_(dim), step_(step) {
    // One turn of d ahead, so that the linear features, too, are numbers that can be divided.
    const int packed = feature - 1 - dim + 2 * dim;
    i_ = packed % dim;
    delta_ = packed / dim - 2;
    step_i_ = step % dim;
    step_delta_ = step / dim;
  }

  __device__ int feature() const { return feature_; }

  __device__ FeatureRows rows() const {
    if (feature_ == 0) return {dim_, dim_};
    if (feature_ <= dim_) return {feature_ - 1, dim_};
    const int j = i_ + delta_;
    return {i_, j < dim_ ? j : j - dim_};
  }

  __device__ void next() {
    feature_ += step_;
    i_ += step_i_;
    delta_ += step_delta_;
    if (i_ >= dim_) {
      i_ -= dim_;
      ++delta_;
    }
  }

 private:
  int feature_;
  int dim_;
  int step_;
  int i_;
  int delta_;
  int step_i_;
  int step_delta_;
};

// What a lane holds of one row of the state: groups of neighbouring columns, and the normaliser if the first is 0.
template <typename Loads>
struct StateRow {
  int feature;
  FeatureRows rows;
  float norm;
  float state[Loads::kColumns];

  // Calls body(columns held before, column) for each group of the lane's that the row has; `column` is its first, and
  // `apart` what lies between the starts of two.
  template <typename Body>
  static __device__ __forceinline__ void for_groups(int column, int apart, int value_dim, Body body) {
#pragma unroll
    for (int j = 0; j < Loads::kLoads; ++j) {
      if (column + j * apart < value_dim) body(j * Loads::kFloats, column + j * apart);
    }
  }

  // Of a row of zeros. `carried` is row 0 of the head's state; rows from `end` on are not read.
  __device__ __forceinline__ void load(const TaylorCall& call, std::int64_t carried, const FeatureWalk& walk, int end,
                                       int column, int apart) {
    feature = walk.feature();
    rows = walk.rows();
    const bool exists = feature < end;
    norm = exists && column == 0 ? call.norm[carried + feature] : 0.0f;
    if (!exists) return;
    const float* const from = call.state + (carried + feature) * call.value_dim;
    for_groups(column, apart, call.value_dim, [&](int i, int at) {
      const auto group = *reinterpret_cast<const Vector<float, Loads::kFloats>*>(from + at);
#pragma unroll
      for (int c = 0; c < Loads::kFloats; ++c) state[i + c] = group.values[c];
    });
  }

  // Takes in one token.
  __device__ __forceinline__ void add(const float* key, const float* value, int column, int apart, int value_dim) {
    const float phi = key[rows.first] * key[rows.second];
    norm += phi;
    for_groups(column, apart, value_dim, [&](int i, int at) {
#pragma unroll
      for (int c = 0; c < Loads::kFloats; ++c) state[i + c] += phi * value[at + c];
    });
  }

  // Adds what the row says to a query.
  __device__ __forceinline__ void ask(const float* query, int dim, float (&sum)[Loads::kColumns], float& total) const {
    const float weight = feature > dim && feature <= 2 * dim ? 0.5f : 1.0f;
    const float phi = weight * query[rows.first] * query[rows.second];
    total += phi * norm;
#pragma unroll
    for (int i = 0; i < Loads::kColumns; ++i) sum[i] += phi * state[i];
  }

  __device__ __forceinline__ void store(float* to, float* norm_to, int column, int apart, int value_dim) const {
    for_groups(column, apart, value_dim, [&](int i, int at) {
      Vector<float, Loads::kFloats> group;
#pragma unroll
      for (int c = 0; c < Loads::kFloats; ++c) group.values[c] = state[i + c];
      *reinterpret_cast<Vector<float, Loads::kFloats>*>(to + at) = group;
    });
    if (column == 0) *norm_to = norm;
  }

  // The constant feature's part, which lies where it lies.
  __device__ __forceinline__ void store_part(float* to, int column, int apart, int value_dim) const {
    for_groups(column, apart, value_dim, [&](int i, int at) {
#pragma unroll
      for (int c = 0; c < Loads::kFloats; ++c) to[at + c] = state[i + c];
    });
    if (column == 0) to[value_dim] = norm;
  }
};

// Grid: slices × heads. A slice is `segment_length` rows of the state, and `sums` takes (heads, slices + 1, tokens, e +
// 1) parts; the last of them is the constant feature's, the largest term, to be added last.
template <typename T, int kTokens, typename Loads>
__global__ void __launch_bounds__(kStepThreads, step_blocks(kTokens, Loads::kColumns))
    causal_taylor_step(TaylorCall call) {
  HSM_DYNAMIC_SHARED(float, shared);
  const int dim = call.dim;
  const int value_dim = call.value_dim;
  float* const queries = shared;
  float* const keys = queries + kTokens * (dim + 2);
  float* const values = keys + kTokens * (dim + 2);
  float* const parts = values + kTokens * (value_dim + 2);  // (warps, tokens, e + 1)

  const std::int64_t slice = blockIdx.x % call.segments;
  const std::int64_t local = blockIdx.x / call.segments;
  const Head<T> head(call, local);
  const int tokens = static_cast<int>(head.valid);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = warp; i < 3 * tokens; i += kStepWarps) {
    const int token = i / 3;
    const std::int64_t offset = token * head.stride;
    if (i % 3 == 0) load_token(head.q + offset, dim, call.normalize, head.temperature, queries + token * (dim + 2));
    if (i % 3 == 1) load_token(head.k + offset, dim, call.normalize, 1.0f, keys + token * (dim + 2));
    if (i % 3 == 2) {
      load_token(head.v + token * head.value_stride, value_dim, false, 1.0f, values + token * (value_dim + 2));
    }
  }
  __syncthreads();

  // A warp takes as many rows at once as it has lanes for; the loads of kBatch of them are under way together. With
  // several tokens there is enough to do for each.
  constexpr int kBatch = kTokens > 1 ? 1 : Loads::kColumns > 4 ? 2 : 3;
  int width = 32;
  if constexpr (Loads::kLoads == 1) {
    while (width > 1 && width / 2 * Loads::kColumns >= value_dim) width /= 2;
  }
  const int column = lane % width * Loads::kFloats;
  const int apart = width * Loads::kFloats;
  const int rows_at_once = 32 / width;
  float sum[kTokens][Loads::kColumns] = {};
  float total[kTokens] = {};
  const std::int64_t carried = (call.first_head + local) * call.features;
  float* const part = call.sums + local * (call.segments + 1) * kTokens * step_part(value_dim);
  float* const constant = part + call.segments * kTokens * step_part(value_dim);
  const int begin = static_cast<int>(slice * call.segment_length);
  const int end = static_cast<int>(min(slice * call.segment_length + call.segment_length, std::int64_t{call.features}));
  FeatureWalk walk(begin + warp * rows_at_once + lane / width, kStepWarps * rows_at_once, dim);
  while (walk.feature() < end) {
    StateRow<Loads> row[kBatch] = {};
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      row[i].load(call, carried, walk, end, column, apart);
      walk.next();
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (row[i].feature >= end) break;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
        const int at = t * (dim + 2);
        row[i].add(keys + at, values + t * (value_dim + 2), column, apart, value_dim);
        if (row[i].feature > 0) {
          row[i].ask(queries + at, dim, sum[t], total[t]);
        } else {
          row[i].store_part(constant + t * step_part(value_dim), column, apart, value_dim);
        }
      }
      const std::int64_t at = carried + row[i].feature;
      row[i].store(call.state_out + at * value_dim, call.norm_out + at, column, apart, value_dim);
    }
  }

  // Rows of a warp, then warps.
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int flip = width; flip < 32; flip *= 2) {
      total[t] += __shfl_xor_sync(0xffffffffU, total[t], flip);
#pragma unroll
      for (int i = 0; i < Loads::kColumns; ++i) sum[t][i] += __shfl_xor_sync(0xffffffffU, sum[t][i], flip);
    }
    float* const own = parts + (warp * kTokens + t) * (value_dim + 1);
    if (lane == 0) own[value_dim] = total[t];
    if (lane < width) {
      StateRow<Loads>::for_groups(column, apart, value_dim, [&](int i, int at) {
#pragma unroll
        for (int c = 0; c < Loads::kFloats; ++c) own[at + c] = sum[t][i + c];
      });
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * (value_dim + 1); i += kStepThreads) {
    float result = 0.0f;
#pragma unroll
    for (int w = 0; w < kStepWarps; ++w) result += parts[w * kTokens * (value_dim + 1) + i];
    part[slice * kTokens * step_part(value_dim) + i] = result;
  }
}

// Adds the slices' parts in their order, divides and writes; padding becomes zero. Grid: tokens × heads.
template <typename T, int kTokens>
__global__ void __launch_bounds__(kStepThreads) causal_taylor_step_finish(TaylorCall call) {
  const std::int64_t local = blockIdx.x / call.length;
  const std::int64_t token = blockIdx.x % call.length;
  const Head<T> head(call, local);
  const std::int64_t step = kTokens * step_part(call.value_dim);
  const float* const part = call.sums + local * (call.segments + 1) * step + token * step_part(call.value_dim);
  const int column = static_cast<int>(threadIdx.x);
  if (column >= call.value_dim) return;
  T* const to = head.y + token * head.value_stride + column;
  if (token >= head.valid) {
    *to = from_float<T>(0.0f);
    return;
  }
  float sum = 0.0f;
  float total = 0.0f;
  for (std::int64_t slice = 0; slice <= call.segments; ++slice) {
    sum += part[slice * step + column];
    total += part[slice * step + call.value_dim];
  }
  *to = from_float<T>(sum / total);
}

}  // namespace hsm::cuda
