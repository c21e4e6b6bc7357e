// Linear attention with decay on the GPU, in float32 arithmetic: the state stays in registers from a row's first token
// to its last, whether that is one token or many.
//
// A warp holds 16 columns of a head's state: lane l has columns 4·(l % 4) to 4·(l % 4) + 3 of the rows 32·j + 4·(l / 4)
// to 32·j + 4·(l / 4) + 3, for each j. Heads of value width 1 give a warp to a column: lane l has rows 32·j + l. What a
// token brings is shared by the block's warps; what it reads is summed over the lanes of a column.
//
// For n tokens and one head: flops 5·n·K·V (9·n·K·V by the delta rule), bytes 8·K·V for the state and those of the
// tokens once for each 128 columns. At n = 1 the bound is memory. The recurrence takes three operations for each number
// of the state and token; products of chunks, in the same arithmetic, would take two and the scores.
//
// Where the heads are too few to fill the device, a long sequence is cut into segments: `decayed_scan` with kSums
// leaves each segment's sums from a zero state, and how much it decays what was before it; `decayed_carry` adds them up
// to the state before each segment; then the segments run side by side. That takes five operations instead of three.
// The delta rule's segments do not add up, so its heads walk their tokens alone.
//
// Shared memory of a block: 32·(vectors·K + columns) bytes for 8 tokens, K rounded up to 128 or 256, 3 vectors (q, k
// and the decays), 5 by the delta rule. Registers (nvcc 13.0, sm_75 to sm_120; no spills): up to 128 for K up to 128,
// 239 up to 256, 72 for value width 1; 64 for key width 1.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/common/cuda/platform.cuh"

namespace hsm::cuda {

// The arguments with what the launcher planned.
struct DecayedCall {
  const void* q;
  const void* k;
  const void* v;
  const void* log_decay;
  const void* a;
  const void* b;
  const float* state;
  const std::int64_t* lengths;
  void* y;
  float* state_out;
  std::int64_t length;
  std::int64_t heads;
  std::int64_t channels;  // heads of all rows; times the value width where a thread has one
  int key_dim;
  int value_dim;
  int decay_dim;
  bool exclusive;
  std::int64_t segments;        // 1: the state before the only one is `state`
  std::int64_t segment_length;  //
  float* states;                // (heads of all rows, segments, K, V): the state before each segment
  float* decays;                // (heads of all rows, segments, K): of the segment before it
};

enum class DecayedRule { kInclusive, kExclusive, kDelta, kSums };

// Tokens that are in shared memory at a time.
inline constexpr int kDecayedTokens = 8;
inline constexpr int kDecayedThreads = 256;
inline constexpr int kMostDecayedKeys = 256;

// Vectors of key width that a token brings.
constexpr int decayed_vectors(DecayedRule rule) {
  return rule == DecayedRule::kSums ? 2 : rule == DecayedRule::kDelta ? 5 : 3;
}

constexpr std::size_t decayed_shared_bytes(DecayedRule rule, int key_blocks, int columns) {
  const int floats = kDecayedTokens * (decayed_vectors(rule) * 32 * key_blocks + columns);
  return sizeof(float) * static_cast<std::size_t>(floats);
}

template <int kCount>
__device__ __forceinline__ Vector<float, kCount> load_shared(const float* data) {
  return *reinterpret_cast<const Vector<float, kCount>*>(data);
}

// Adds up what the lanes of a column hold.
template <int kSide>
__device__ __forceinline__ void reduce_columns(float (&sum)[kSide]) {
#pragma unroll
  for (int flip = 16; flip >= kSide; flip /= 2) {
#pragma unroll
    for (int c = 0; c < kSide; ++c) sum[c] += __shfl_xor_sync(0xffffffffU, sum[c], flip);
  }
}

// What the block's threads know of a batch of tokens: rows of kKeys floats, and of `columns` values.
template <DecayedRule kRule, int kKeys>
struct DecayedTokens {
  static constexpr int kRows = kDecayedTokens * kKeys;

  __device__ explicit DecayedTokens(float* shared) : decays(shared), k(decays + kRows), q(k + kRows) {
    a = q + kRows;
    b = a + kRows;
    values = shared + decayed_vectors(kRule) * kRows;
  }

  // Reads `count` tokens from `token` on, an index into (B,T) of tokens; columns from `column` on.
  template <typename T>
  __device__ __forceinline__ void load(const DecayedCall& call, std::int64_t token, std::int64_t head, int count,
                                       int column, int columns) {
    const auto at = [&](int t, int width) { return ((token + t) * call.heads + head) * width; };
    const auto number = [&](const void* data, std::int64_t i) { return to_float(static_cast<const T*>(data)[i]); };
    const int threads = static_cast<int>(blockDim.x);
    for (int i = static_cast<int>(threadIdx.x); i < count * kKeys; i += threads) {
      const int key = i % kKeys;
      const bool exists = key < call.key_dim;
      const std::int64_t from = at(i / kKeys, call.key_dim) + key;
      const std::int64_t decay = at(i / kKeys, call.decay_dim) + (call.decay_dim == 1 ? 0 : key);
      decays[i] = exists ? expf(number(call.log_decay, decay)) : 1.0f;
      k[i] = exists ? number(call.k, from) : 0.0f;
      if constexpr (kRule != DecayedRule::kSums) q[i] = exists ? number(call.q, from) : 0.0f;
      if constexpr (kRule == DecayedRule::kDelta) {
        a[i] = exists ? number(call.a, from) : 0.0f;
        b[i] = exists ? number(call.b, from) : 0.0f;
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < count * columns; i += threads) {
      const int own = column + i % columns;
      const bool exists = own < call.value_dim;
      values[i] = exists ? number(call.v, at(i / columns, call.value_dim) + own) : 0.0f;
    }
  }

  float* decays;
  float* k;
  float* q;
  float* a;
  float* b;
  float* values;
};

// What a lane holds of the state: kSide columns of kSide rows in each block of 32.
template <int kKeyBlocks, int kSide>
struct DecayedState {
  // Calls body(number, row, column) for what exists.
  template <typename Body>
  __device__ __forceinline__ void for_each(const DecayedCall& call, int row, int column, Body body) {
#pragma unroll
    for (int j = 0; j < kKeyBlocks; ++j) {
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          const bool exists = 32 * j + row + r < call.key_dim && column + c < call.value_dim;
          body(numbers[j][r][c], std::int64_t{32 * j + row + r} * call.value_dim + column + c, exists);
        }
      }
    }
  }

  __device__ __forceinline__ void load(const DecayedCall& call, const float* from, int row, int column) {
    for_each(call, row, column,
             [&](float& number, std::int64_t at, bool exists) { number = exists && from ? from[at] : 0.0f; });
  }

  __device__ __forceinline__ void store(const DecayedCall& call, float* to, int row, int column) {
    for_each(call, row, column, [&](float number, std::int64_t at, bool exists) {
      if (exists) to[at] = number;
    });
  }

  // Takes in a token and leaves in `y` what this lane's rows say to its query.
  template <DecayedRule kRule, int kKeys>
  __device__ __forceinline__ void step(const DecayedTokens<kRule, kKeys>& tokens, int token, int key_dim, int row,
                                       const float* values, float (&y)[kSide]) {
    using Own = Vector<float, kSide>;
    const Own value = load_shared<kSide>(values);
    float read[kSide] = {};
    if constexpr (kRule == DecayedRule::kDelta) {
#pragma unroll
      for (int j = 0; j < kKeyBlocks; ++j) {
        if (32 * j >= key_dim) break;
        const Own a = load_shared<kSide>(tokens.a + token * kKeys + 32 * j + row);
#pragma unroll
        for (int r = 0; r < kSide; ++r) {
#pragma unroll
          for (int c = 0; c < kSide; ++c) read[c] += a.values[r] * numbers[j][r][c];
        }
      }
      reduce_columns<kSide>(read);
    }
#pragma unroll
    for (int j = 0; j < kKeyBlocks; ++j) {
      if (32 * j >= key_dim) break;
      const int at = token * kKeys + 32 * j + row;
      const Own decay = load_shared<kSide>(tokens.decays + at);
      const Own key = load_shared<kSide>(tokens.k + at);
      Own query{}, written{};
      if constexpr (kRule != DecayedRule::kSums) query = load_shared<kSide>(tokens.q + at);
      if constexpr (kRule == DecayedRule::kDelta) written = load_shared<kSide>(tokens.b + at);
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          float& number = numbers[j][r][c];
          if constexpr (kRule == DecayedRule::kExclusive) y[c] += query.values[r] * number;
          number = number * decay.values[r] + key.values[r] * value.values[c];
          if constexpr (kRule == DecayedRule::kDelta) number += written.values[r] * read[c];
          if constexpr (kRule == DecayedRule::kInclusive || kRule == DecayedRule::kDelta) {
            y[c] += query.values[r] * number;
          }
        }
      }
    }
  }

  float numbers[kKeyBlocks][kSide][kSide];
};

// Zeros the block's columns of y for the tokens [begin, end) of a row, which are padding.
template <typename T>
__device__ __forceinline__ void clear_tokens(const DecayedCall& call, std::int64_t row, std::int64_t head,
                                             std::int64_t begin, std::int64_t end, int column, int columns) {
  for (std::int64_t i = threadIdx.x; i < (end - begin) * columns; i += blockDim.x) {
    const int own = column + static_cast<int>(i % columns);
    const std::int64_t token = row * call.length + begin + i / columns;
    if (own < call.value_dim) {
      static_cast<T*>(call.y)[(token * call.heads + head) * call.value_dim + own] = from_float<T>(0.0f);
    }
  }
}

// Threads of a block at most, and blocks that a multiprocessor must have registers for at least.
constexpr int scan_threads(int side) { return side == 1 ? 32 : kDecayedThreads; }
constexpr int scan_blocks(int side, int key_blocks) { return side == 1 ? 16 : key_blocks <= 4 ? 2 : 1; }

// Grid: tiles of columns × segments × heads of all rows; with kSums, all segments but the last. A block has as many
// warps as its tile has kSide² columns.
template <typename T, int kKeyBlocks, int kSide, int kRuleNumber>
__global__ void __launch_bounds__(scan_threads(kSide), scan_blocks(kSide, kKeyBlocks)) decayed_scan(DecayedCall call) {
  constexpr int kKeys = 32 * kKeyBlocks;
  constexpr auto kRule =
      static_cast<DecayedRule>(kRuleNumber);  // a number, so that every compiler names the kernel alike
  constexpr bool kSums = kRule == DecayedRule::kSums;
  HSM_DYNAMIC_SHARED(float, shared);
  DecayedTokens<kRule, kKeys> tokens(shared);

  const int columns = static_cast<int>(blockDim.x) / 32 * kSide * kSide;
  const std::int64_t tiles = (call.value_dim + columns - 1) / columns;
  const std::int64_t segments = kSums ? call.segments - 1 : call.segments;
  const int first_column = static_cast<int>(blockIdx.x % tiles) * columns;
  const std::int64_t segment = blockIdx.x / tiles % segments;
  const std::int64_t channel = blockIdx.x / tiles / segments;
  const std::int64_t row = channel / call.heads;
  const std::int64_t head = channel % call.heads;
  const std::int64_t valid = call.lengths[row];
  const std::int64_t begin = segment * call.segment_length;
  const std::int64_t end = min(begin + call.segment_length, valid);

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int own_row = lane / kSide * kSide;
  const int own = warp * kSide * kSide + lane % kSide * kSide;  // column within the tile
  const int column = first_column + own;
  const std::int64_t size = std::int64_t{call.key_dim} * call.value_dim;
  const std::int64_t slot = channel * call.segments + segment;

  DecayedState<kKeyBlocks, kSide> state;
  const float* const before = call.segments > 1 ? call.states + slot * size : call.state + channel * size;
  state.load(call, kSums ? nullptr : before, own_row, column);
  float whole[kKeyBlocks][kSide];  // what the segment's decays make of the state before it
#pragma unroll
  for (int j = 0; j < kKeyBlocks; ++j) {
#pragma unroll
    for (int r = 0; r < kSide; ++r) whole[j][r] = 1.0f;
  }
  for (std::int64_t first = begin; first < end; first += kDecayedTokens) {
    const int count = static_cast<int>(min(end - first, std::int64_t{kDecayedTokens}));
    __syncthreads();
    tokens.template load<T>(call, row * call.length + first, head, count, first_column, columns);
    __syncthreads();
    for (int t = 0; t < count; ++t) {
      float y[kSide] = {};
      state.template step<kRule, kKeys>(tokens, t, call.key_dim, own_row, tokens.values + t * columns + own, y);
      if constexpr (kSums) {
#pragma unroll
        for (int j = 0; j < kKeyBlocks; ++j) {
#pragma unroll
          for (int r = 0; r < kSide; ++r) whole[j][r] *= tokens.decays[t * kKeys + 32 * j + own_row + r];
        }
      } else {
        reduce_columns<kSide>(y);
        const std::int64_t token = (row * call.length + first + t) * call.heads + head;
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          if (lane < kSide && column + c < call.value_dim) {
            static_cast<T*>(call.y)[token * call.value_dim + column + c] = from_float<T>(y[c]);
          }
        }
      }
    }
  }
  if constexpr (kSums) {
    state.store(call, call.states + (slot + 1) * size, own_row, column);
    if (own > 0 || first_column > 0) return;
#pragma unroll
    for (int j = 0; j < kKeyBlocks; ++j) {
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
        const int key = 32 * j + own_row + r;
        if (key < call.key_dim) call.decays[(slot + 1) * call.key_dim + key] = whole[j][r];
      }
    }
  } else {
    // The segment with the last valid token has the state after it; an idle row's is the first.
    const std::int64_t last = valid > 0 ? (valid - 1) / call.segment_length : 0;
    if (segment == last) state.store(call, call.state_out + channel * size, own_row, column);
    const std::int64_t padding = min(begin + call.segment_length, call.length);
    clear_tokens<T>(call, row, head, max(begin, valid), padding, first_column, columns);
  }
}

// Turns the sums of the segments into the state before each. A thread has one number of the state; grid: K·V numbers of
// all heads.
static __global__ void __launch_bounds__(kDecayedThreads) decayed_carry(DecayedCall call) {
  const std::int64_t size = std::int64_t{call.key_dim} * call.value_dim;
  const std::int64_t index = std::int64_t{blockIdx.x} * kDecayedThreads + threadIdx.x;
  if (index >= call.channels * size) return;
  const std::int64_t channel = index / size;
  const std::int64_t number = index % size;
  float carried = call.state[index];
  for (std::int64_t segment = 0; segment < call.segments; ++segment) {
    const std::int64_t slot = channel * call.segments + segment;
    float* const at = call.states + slot * size + number;
    if (segment > 0) carried = carried * call.decays[slot * call.key_dim + number / call.value_dim] + *at;
    *at = carried;
  }
}

// Key width 1: a thread has one number of the state. `channels` of them. Several tokens are on their way at a time.
template <typename T>
__global__ void __launch_bounds__(kDecayedThreads) decayed_numbers(DecayedCall call) {
  constexpr int kBatch = 4;
  const std::int64_t index = std::int64_t{blockIdx.x} * kDecayedThreads + threadIdx.x;
  if (index >= call.channels) return;
  const std::int64_t channels = call.heads * call.value_dim;  // of a row
  const std::int64_t row = index / channels;
  const std::int64_t head = index % channels / call.value_dim;
  const std::int64_t valid = call.lengths[row];
  const auto number = [&](const void* data, std::int64_t i) { return to_float(static_cast<const T*>(data)[i]); };
  T* const y = static_cast<T*>(call.y) + row * call.length * channels + index % channels;
  float state = call.state[index];
  for (std::int64_t first = 0; first < valid; first += kBatch) {
    float factor[kBatch], added[kBatch], query[kBatch];
#pragma unroll
    for (int t = 0; t < kBatch; ++t) {
      const std::int64_t token = row * call.length + min(first + t, valid - 1);
      const std::int64_t at = token * call.heads + head;
      factor[t] = expf(number(call.log_decay, at));
      if (call.a != nullptr) factor[t] += number(call.a, at) * number(call.b, at);
      added[t] = number(call.k, at) * number(call.v, token * channels + index % channels);
      query[t] = number(call.q, at);
    }
#pragma unroll
    for (int t = 0; t < kBatch; ++t) {
      if (first + t >= valid) break;
      const float before = state;
      state = before * factor[t] + added[t];
      y[(first + t) * channels] = from_float<T>(query[t] * (call.exclusive ? before : state));
    }
  }
  for (std::int64_t token = valid; token < call.length; ++token) y[token * channels] = from_float<T>(0.0f);
  call.state_out[index] = state;
}

}  // namespace hsm::cuda
