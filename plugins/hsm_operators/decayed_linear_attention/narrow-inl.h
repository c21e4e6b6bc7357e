// Heads of value width 1: the state of a head is a vector, or, at key width 1 too, a number. Recurrences of single
// channels are such heads, and there are many of them.
#if defined(HSM_DECAYED_NARROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_DECAYED_NARROW_INL_H_
#undef HSM_DECAYED_NARROW_INL_H_
#else
#define HSM_DECAYED_NARROW_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/decayed_linear_attention/head-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// The first `count` elements as a vector, zeros after them.
template <typename T>
HWY_INLINE FloatVec load_first(const T* from, std::size_t count) {
  const FloatTag tag;
  if (HWY_LIKELY(count >= hn::Lanes(tag))) return load_floats(tag, from);
  HWY_ALIGN float copy[HWY_MAX_LANES_D(FloatTag)] = {};
  for (std::size_t i = 0; i < count; ++i) copy[i] = to_float(from[i]);
  return hn::Load(tag, copy);
}

template <typename T>
HWY_INLINE void store_first(FloatVec value, std::size_t count, T* to) {
  const FloatTag tag;
  if (HWY_LIKELY(count >= hn::Lanes(tag))) return store_floats(tag, value, to);
  HWY_ALIGN float copy[HWY_MAX_LANES_D(FloatTag)];
  hn::Store(value, tag, copy);
  for (std::size_t i = 0; i < count; ++i) to[i] = from_float<T>(copy[i]);
}

// Key and value width 1: `count` heads from `head` on, side by side in vectors whose state stays in registers.
template <typename T>
void scan_numbers(const DecayedHead<T>& head, std::size_t count) {
  constexpr std::size_t kVectors = 4;
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  for (std::size_t start = 0; start < count; start += kVectors * lanes) {
    FloatVec state[kVectors];
    const auto left = [&](std::size_t v) { return count - std::min(count, start + v * lanes); };
    for (std::size_t v = 0; v < kVectors; ++v) state[v] = load_first(head.state + start + v * lanes, left(v));
    for (std::size_t t = 0; t < head.length; ++t) {
      for (std::size_t v = 0; v < kVectors && left(v) > 0; ++v) {
        const std::size_t at = t * head.heads + start + v * lanes;
        const auto load = [&](const T* from) HWY_ATTR { return load_first(from + at, left(v)); };
        const FloatVec before = state[v];
        FloatVec factor = exp_floats(load(head.log_decay));
        if (head.a != nullptr) factor = hn::MulAdd(load(head.a), load(head.b), factor);
        state[v] = hn::MulAdd(load(head.k), load(head.v), hn::Mul(factor, before));
        store_first(hn::Mul(load(head.q), head.exclusive ? before : state[v]), left(v), head.y + at);
      }
    }
    for (std::size_t v = 0; v < kVectors && left(v) > 0; ++v) {
      store_first(state[v], left(v), head.state_out + start + v * lanes);
    }
  }
}

// Value width 1: the state lies along vectors. `scratch` holds six rows of `rows` floats (whole vectors).
template <typename T>
void scan_vectors(const DecayedHead<T>& head, std::size_t rows, float* scratch) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  float* const state = scratch;
  float* const row[] = {state + rows, state + 2 * rows, state + 3 * rows, state + 4 * rows, state + 5 * rows};
  pack_rows(head.state, 0, 1, head.key_dim, rows, state);
  for (std::size_t t = 0; t < head.length; ++t) {
    const std::size_t at = t * head.key_stride();
    const auto pack = [&](const T* from, std::size_t i) { pack_rows(from + at, 0, 1, head.key_dim, rows, row[i]); };
    decay_rows(head, t, 1, rows, row[0]);
    pack(head.q, 1);
    pack(head.k, 2);
    FloatVec read = hn::Zero(tag);
    if (head.a != nullptr) {
      pack(head.a, 3);
      pack(head.b, 4);
      for (std::size_t i = 0; i < rows; i += lanes) {
        read = hn::MulAdd(hn::LoadU(tag, row[3] + i), hn::LoadU(tag, state + i), read);
      }
      read = hn::SumOfLanes(tag, read);
    }
    const FloatVec value = hn::Set(tag, to_float(head.v[t * head.value_stride()]));
    FloatVec y = hn::Zero(tag);
    for (std::size_t i = 0; i < rows; i += lanes) {
      const FloatVec before = hn::LoadU(tag, state + i);
      FloatVec after = hn::MulAdd(hn::LoadU(tag, row[2] + i), value, hn::Mul(hn::LoadU(tag, row[0] + i), before));
      if (head.a != nullptr) after = hn::MulAdd(hn::LoadU(tag, row[4] + i), read, after);
      y = hn::MulAdd(hn::LoadU(tag, row[1] + i), head.exclusive ? before : after, y);
      hn::StoreU(after, tag, state + i);
    }
    head.y[t * head.value_stride()] = from_float<T>(hn::ReduceSum(tag, y));
  }
  std::copy_n(state, head.key_dim, head.state_out);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_DECAYED_NARROW_INL_H_
