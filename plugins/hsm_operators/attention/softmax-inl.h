// Softmax over keys that arrive tile by tile: each query keeps the largest score so far, the sum of its weights and
// their sum times the values, both relative to that score.
#if defined(HSM_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_SOFTMAX_INL_H_
#undef HSM_ATTENTION_SOFTMAX_INL_H_
#else
#define HSM_ATTENTION_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <limits>

#include "hwy/highway.h"
#include "hsm_operators/attention/seen.h"
#include "hsm_operators/common/cpu/exp-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

HWY_INLINE float exp_float(float x) {
  const FloatTag tag;
  return hn::GetLane(exp_floats(hn::Set(tag, x)));
}

// Turns the scores [begin, end) of a row into weights and the others of its `columns` (whole vectors) into zeros, and
// returns the factor by which what was summed before shrinks.
inline float weigh_row(float* HWY_RESTRICT row, std::size_t columns, std::size_t begin, std::size_t end,
                       AttentionSeen& seen) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  if (begin >= end) {
    std::fill_n(row, columns, 0.0f);
    return 1.0f;
  }
  const float hidden = -std::numeric_limits<float>::infinity();
  std::fill_n(row, begin, hidden);
  std::fill(row + end, row + columns, hidden);
  FloatVec most = hn::Set(tag, seen.most);
  for (std::size_t i = 0; i < columns; i += lanes) most = hn::Max(most, hn::LoadU(tag, row + i));
  const float above = hn::ReduceMax(tag, most);
  const FloatVec shift = hn::Set(tag, above);
  FloatVec total = hn::Zero(tag);
  for (std::size_t i = 0; i < columns; i += lanes) {
    const FloatVec weight = exp_floats(hn::Sub(hn::LoadU(tag, row + i), shift));
    hn::StoreU(weight, tag, row + i);
    total = hn::Add(total, weight);
  }
  const float factor = seen.most == above ? 1.0f : exp_float(seen.most - above);
  seen.most = above;
  seen.total = seen.total * factor + hn::ReduceSum(tag, total);
  return factor;
}

// Multiplies a row of whole vectors.
inline void scale_row(float* HWY_RESTRICT row, std::size_t columns, float factor) {
  const FloatTag tag;
  const FloatVec by = hn::Set(tag, factor);
  for (std::size_t i = 0; i < columns; i += hn::Lanes(tag))
    hn::StoreU(hn::Mul(hn::LoadU(tag, row + i), by), tag, row + i);
}

// Divides a row by its weights and rounds it to the element type; zeros where there was nothing to see.
template <typename T>
void write_result(float* row, std::size_t columns, std::size_t count, const AttentionSeen& seen, T* to) {
  scale_row(row, columns, seen.total == 0.0f ? 0.0f : 1.0f / seen.total);
  from_floats(row, count, to);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_SOFTMAX_INL_H_
