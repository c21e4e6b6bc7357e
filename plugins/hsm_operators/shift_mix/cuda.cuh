// Kernels of TokenShift and ShiftMix, plain and cached. With e bytes to an element:
//
//   bytes  2·B·T·D·e, each element of x read once from DRAM (the second reading, `shift` tokens later, hits the caches
//   as
//          long as shift·D·e fits L2) and each element of y written once; a decoding step moves 4·B·D·e: x, y, one slot
//          read and one slot written
//   flops  3·B·T·D (none for TokenShift)
//   bound  memory: 3/(2·e) flops a byte, 0.4 to 0.75, where an A100 needs 13 (fp32, 19.5 Tflop/s at 1.5 TB/s)
//
// A thread owns 16 bytes of channels of one row of the batch (one element where sizes or addresses do not allow 16
// bytes) and holds their weights in registers. No shared memory.
//
// Registers (ptxas 13.0; no spills): with 16 bytes a thread, tiles of 8 tokens 96-98 on sm_75 to sm_89, 98-147 on sm_90
// to sm_120; everything else 24-64.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"

namespace hsm::cuda {

inline constexpr int kShiftMixThreads = 128;
// Shifts that travel in the parameters of one launch.
inline constexpr int kMostGroups = 128;

// One launch: the channels of `groups` groups, all of `group` channels.
template <typename T>
struct ShiftMixParameters {
  const T* x;
  const T* alpha;  // null: TokenShift
  const T* beta;
  T* y;
  const T* ring;  // null: zeros stand before the first token
  T* ring_out;
  const std::int64_t* position;
  const std::int64_t* lengths;
  std::int64_t length;
  std::int64_t width;
  std::int64_t ring_rows;
  std::int64_t first;       // channel of the first group
  std::uint32_t batch;      //
  std::uint32_t vectors;    // of all groups of this launch
  std::uint32_t per_group;  // vectors of a group
  std::int64_t shifts[kMostGroups];
};

// Slot of the token that came `t` >= 0 after `position`, which may be any number in idle rows.
__device__ __forceinline__ std::int64_t slot_of(std::int64_t position, std::int64_t t, std::int64_t ring_rows) {
  return (max(position, std::int64_t{0}) % ring_rows + t) % ring_rows;
}

// A slot from 0 to 2·ring_rows - 1, without a division.
__device__ __forceinline__ std::int64_t wrap(std::int64_t slot, std::int64_t ring_rows) {
  return slot >= ring_rows ? slot - ring_rows : slot;
}

// What one thread works on: row b of the batch, kCount channels from `channel`.
template <typename T, int kCount>
struct Lane {
  using Elements = Vector<T, kCount>;

  const ShiftMixParameters<T>& p;
  std::int64_t b;
  std::int64_t channel;
  std::int64_t shift;

  __device__ Lane(const ShiftMixParameters<T>& parameters, std::uint32_t row, std::uint32_t vector)
      : p(parameters),
        b(row),
        channel(parameters.first + static_cast<std::int64_t>(vector) * kCount),
        shift(parameters.shifts[vector / parameters.per_group]) {}

  __device__ static Elements zeros() {
    Elements result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.values[i] = from_float<T>(0.0f);
    return result;
  }

  __device__ static const Elements& at(const T* data, std::int64_t index) {
    return *reinterpret_cast<const Elements*>(data + index);
  }
  __device__ static Elements& at(T* data, std::int64_t index) { return *reinterpret_cast<Elements*>(data + index); }

  __device__ std::int64_t token(std::int64_t t) const { return (b * p.length + t) * p.width + channel; }
  __device__ std::int64_t slot(std::int64_t s) const { return (b * p.ring_rows + s) * p.width + channel; }

  // The tokens before this call, as far as the ring holds them; `next` is the slot that the call's first token gets.
  struct Past {
    std::int64_t tokens = 0;
    std::int64_t next = 0;
  };
  __device__ Past past() const {
    if (p.ring == nullptr) return {};
    const std::int64_t position = max(p.position[b], std::int64_t{0});
    return {position, position % p.ring_rows};
  }

  // x, `shift` tokens before token t of this call: from the call, the ring (no further back than it has rows), or
  // zeros. Compared before a difference is formed: without a ring a shift may be any number.
  __device__ Elements shifted(std::int64_t t, const Past& past) const {
    if (shift <= t - p.length) return zeros();
    if (shift <= t) return at(p.x, token(t - shift));
    if (past.tokens < shift - t) return zeros();
    return at(p.ring, slot(wrap(past.next + p.ring_rows - (shift - t), p.ring_rows)));
  }
};

// alpha·own + beta·shifted in float32.
template <typename T, int kCount>
struct Weights {
  using Elements = Vector<T, kCount>;
  Elements alpha;
  Elements beta;

  __device__ explicit Weights(const Lane<T, kCount>& lane)
      : alpha(lane.at(lane.p.alpha, lane.channel)), beta(lane.at(lane.p.beta, lane.channel)) {}

  __device__ Elements mix(const Elements& own, const Elements& shifted) const {
    Elements result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float sum = to_float(alpha.values[i]) * to_float(own.values[i]);
      result.values[i] = from_float<T>(fmaf(to_float(beta.values[i]), to_float(shifted.values[i]), sum));
    }
    return result;
  }
};

// kTokens neighbouring tokens: all loads first, so that they are under way together.
template <typename T, int kCount, int kTokens>
__device__ __forceinline__ void mix_tokens(const Lane<T, kCount>& lane, std::int64_t start) {
  using Elements = Vector<T, kCount>;
  const ShiftMixParameters<T>& p = lane.p;
  const auto past = start < lane.shift ? lane.past() : typename Lane<T, kCount>::Past();
  Elements shifted[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (start + i < p.length) shifted[i] = lane.shifted(start + i, past);
  }
  if (p.alpha == nullptr) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      if (start + i < p.length) lane.at(p.y, lane.token(start + i)) = shifted[i];
    }
    return;
  }
  Elements own[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (start + i < p.length) own[i] = lane.at(p.x, lane.token(start + i));
  }
  const Weights<T, kCount> weights(lane);
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (start + i < p.length) lane.at(p.y, lane.token(start + i)) = weights.mix(own[i], shifted[i]);
  }
}

// One thread: kTokens tokens of its channels. Leaves the ring alone, because other blocks still read it.
template <typename T, int kCount, int kTokens>
__global__ void __launch_bounds__(kShiftMixThreads, kTokens > 4 ? 3 : 8) shift_mix_tile(const ShiftMixParameters<T> p) {
  const std::uint32_t index = blockIdx.x * kShiftMixThreads + threadIdx.x;
  const auto tiles = static_cast<std::uint32_t>((p.length + kTokens - 1) / kTokens);
  const std::uint32_t row_tile = index / p.vectors;
  if (row_tile >= p.batch * tiles) return;
  const Lane<T, kCount> lane(p, row_tile / tiles, index % p.vectors);
  mix_tokens<T, kCount, kTokens>(lane, static_cast<std::int64_t>(row_tile % tiles) * kTokens);
}

// Writes the call's last tokens to their slots, after shift_mix_tile has read the ring. One thread: one slot. In place:
// only the slots that change. Else all of them, those that do not change as copies.
template <typename T, int kCount>
__global__ void __launch_bounds__(kShiftMixThreads) shift_mix_ring(const ShiftMixParameters<T> p) {
  const std::uint32_t index = blockIdx.x * kShiftMixThreads + threadIdx.x;
  const bool copies = p.ring != p.ring_out;
  const auto rows = static_cast<std::uint32_t>(copies || p.ring_rows < p.length ? p.ring_rows : p.length);
  const std::uint32_t row = index / p.vectors;
  if (row >= p.batch * rows) return;
  const Lane<T, kCount> lane(p, row / rows, index % p.vectors);
  const std::int64_t n = row % rows;
  const std::int64_t count = min(max(p.lengths[lane.b], std::int64_t{0}), p.length);
  const std::int64_t first = max(count - p.ring_rows, std::int64_t{0});  // token that is not overwritten again
  const std::int64_t slot_of_first = slot_of(p.position[lane.b], first, p.ring_rows);
  if (!copies) {
    if (first + n >= count) return;
    lane.at(p.ring_out, lane.slot(wrap(slot_of_first + n, p.ring_rows))) = lane.at(p.x, lane.token(first + n));
    return;
  }
  const std::int64_t t = first + wrap(n - slot_of_first + p.ring_rows, p.ring_rows);
  lane.at(p.ring_out, lane.slot(n)) = t < count ? lane.at(p.x, lane.token(t)) : lane.at(p.ring, lane.slot(n));
}

// A decoding step in one launch, ring in place: a thread does all tokens of its channels and then writes their slots,
// which no other thread touches.
template <typename T, int kCount>
__global__ void __launch_bounds__(kShiftMixThreads) shift_mix_step(const ShiftMixParameters<T> p) {
  const std::uint32_t index = blockIdx.x * kShiftMixThreads + threadIdx.x;
  const std::uint32_t row = index / p.vectors;
  if (row >= p.batch) return;
  const Lane<T, kCount> lane(p, row, index % p.vectors);
  for (std::int64_t t = 0; t < p.length; ++t) mix_tokens<T, kCount, 1>(lane, t);
  const std::int64_t count = min(max(p.lengths[lane.b], std::int64_t{0}), p.length);
  const std::int64_t first = max(count - p.ring_rows, std::int64_t{0});
  std::int64_t slot = slot_of(p.position[lane.b], first, p.ring_rows);
  for (std::int64_t t = first; t < count; ++t) {
    lane.at(p.ring_out, lane.slot(slot)) = lane.at(p.x, lane.token(t));
    slot = wrap(slot + 1, p.ring_rows);
  }
}

}  // namespace hsm::cuda
