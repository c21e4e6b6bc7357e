// Heads of value width 1 or key width 1: the state of a head is a vector, or a number. Recurrences of single channels
// are such heads, and there are many of them.
#if defined(HSM_DECAYED_NARROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_DECAYED_NARROW_INL_H_
#undef HSM_DECAYED_NARROW_INL_H_
#else
#define HSM_DECAYED_NARROW_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/partial-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/decayed_linear_attention/head-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// One token of `count` heads of key width 1, which are lanes of vectors.
template <typename T>
void step_numbers(const DecayedHead<T>& first, std::size_t t, std::size_t count) {
  const std::size_t lanes = hn::Lanes(FloatTag()), at = t * first.heads;
  for (std::size_t i = 0; i < count; i += lanes) {
    const std::size_t left = count - i;
    const auto load = [&](const T* from) HWY_ATTR { return load_first(from + at + i, left); };
    const FloatVec before = load_first(first.state_out + i, left);
    FloatVec factor = exp_floats(load(first.log_decay));
    if (first.a != nullptr) factor = hn::MulAdd(load(first.a), load(first.b), factor);
    const FloatVec after = hn::MulAdd(load(first.k), load(first.v), hn::Mul(factor, before));
    store_first(hn::Mul(load(first.q), first.exclusive ? before : after), left, first.y + at + i);
    store_first(after, left, first.state_out + i);
  }
}

// Writes by what one token multiplies the states of `count` heads that have one decay each; the delta rule's part of it
// is known where the key width is 1.
template <typename T>
void step_factors(const DecayedHead<T>& first, std::size_t t, std::size_t count, float* factors) {
  const FloatTag tag;
  const std::size_t at = t * first.heads;
  for (std::size_t h = 0; h < count; h += hn::Lanes(tag)) {
    const auto load = [&](const T* from) HWY_ATTR { return load_first(from + at + h, count - h); };
    FloatVec factor = exp_floats(load(first.log_decay));
    if (first.a != nullptr && first.key_dim == 1) factor = hn::MulAdd(load(first.a), load(first.b), factor);
    hn::StoreU(factor, tag, factors + h);
  }
}

// One token of `count` heads of key width 1, whose values are lanes of vectors.
template <typename T>
void step_values(const DecayedHead<T>& first, std::size_t t, std::size_t count, const float* factors) {
  const FloatTag tag;
  const std::size_t dim = first.value_dim;
  for (std::size_t h = 0; h < count; ++h) {
    const std::size_t at = t * first.value_stride() + h * dim;
    float* const state = first.state_out + h * dim;
    const FloatVec factor = hn::Set(tag, factors[h]);
    const FloatVec key = hn::Set(tag, to_float(first.k[t * first.heads + h]));
    const FloatVec query = hn::Set(tag, to_float(first.q[t * first.heads + h]));
    for (std::size_t i = 0; i < dim; i += hn::Lanes(tag)) {
      const FloatVec before = load_first(state + i, dim - i);
      const FloatVec after = hn::MulAdd(key, load_first(first.v + at + i, dim - i), hn::Mul(factor, before));
      store_first(hn::Mul(query, first.exclusive ? before : after), dim - i, first.y + at + i);
      store_first(after, dim - i, state + i);
    }
  }
}

// One token of `count` heads of value width 1, whose keys are lanes of vectors. `decays` holds their decays if each has
// but one.
template <typename T>
void step_keys(const DecayedHead<T>& first, std::size_t t, std::size_t count, const float* decays) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag), dim = first.key_dim;
  for (std::size_t h = 0; h < count; ++h) {
    const std::size_t at = t * first.key_stride() + h * dim;
    float* const state = first.state_out + h * dim;
    FloatVec read = hn::Zero(tag);
    for (std::size_t i = 0; i < dim && first.a != nullptr; i += lanes) {
      read = hn::MulAdd(load_first(first.a + at + i, dim - i), load_first(state + i, dim - i), read);
    }
    if (first.a != nullptr) read = hn::SumOfLanes(tag, read);
    const FloatVec value = hn::Set(tag, to_float(first.v[t * first.heads + h]));
    FloatVec y = hn::Zero(tag);
    for (std::size_t i = 0; i < dim; i += lanes) {
      const auto load = [&](const T* from) HWY_ATTR { return load_first(from + at + i, dim - i); };
      const FloatVec decay = first.decay_dim == 1 ? hn::Set(tag, decays[h]) : exp_floats(load(first.log_decay));
      const FloatVec before = load_first(state + i, dim - i);
      FloatVec after = hn::MulAdd(load(first.k), value, hn::Mul(decay, before));
      if (first.a != nullptr) after = hn::MulAdd(load(first.b), read, after);
      y = hn::MulAdd(load(first.q), first.exclusive ? before : after, y);
      store_first(after, dim - i, state + i);
    }
    first.y[t * first.heads + h] = from_float<T>(hn::ReduceSum(tag, y));
  }
}

// All tokens of `count` heads of key or value width 1 from `first` on, token by token: then what is read lies side by
// side, and the states stay in cache.
template <typename T>
void scan_narrow(const DecayedHead<T>& first, std::size_t count) {
  const std::size_t keys = first.key_dim, values = first.value_dim;
  if (first.state != first.state_out) std::copy_n(first.state, count * keys * values, first.state_out);
  cpu::ScratchBuffers<1> factors({round_up(count, hn::Lanes(FloatTag()))});
  for (std::size_t t = 0; t < first.length; ++t) {
    if (t + 1 < first.length) {
      const std::size_t at = (t + 1) * first.heads;
      for (const T* from : {first.q, first.k}) prefetch_rows(from + at * keys, 0, 1, count * keys);
      prefetch_rows(first.log_decay + at * first.decay_dim, 0, 1, count * first.decay_dim);
      prefetch_rows(first.v + at * values, 0, 1, count * values);
    }
    if (keys == 1 && values == 1) {
      step_numbers(first, t, count);
      continue;
    }
    if (first.decay_dim == 1) step_factors(first, t, count, factors[0]);
    keys == 1 ? step_values(first, t, count, factors[0]) : step_keys(first, t, count, factors[0]);
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_DECAYED_NARROW_INL_H_
