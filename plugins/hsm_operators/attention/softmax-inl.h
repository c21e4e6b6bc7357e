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

// exp of numbers that are at most 0, as `exp_floats` but for what only larger ones need: 0 below 2^-125, NaN stays NaN.
HWY_INLINE FloatVec exp_negative(FloatVec x) {
  const FloatTag tag;
  const hn::RebindToSigned<FloatTag> integers;
  x = hn::Max(hn::Set(tag, -87.3f), x);  // NaN passes as the second argument
  const FloatVec round = hn::Set(tag, 12582912.0f);
  const FloatVec rounded = hn::MulAdd(x, hn::Set(tag, 1.44269504f), round);
  const FloatVec n = hn::Sub(rounded, round);
  FloatVec r = hn::NegMulAdd(n, hn::Set(tag, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(tag, -2.12194440e-4f), r);
  // Twice the polynomial of `exp_floats`, as the power of 2 is halved: 2^-126 then becomes 0.
  FloatVec p = hn::Set(tag, 2.7629198e-3f);
  p = hn::MulAdd(p, r, hn::Set(tag, 1.67374332e-2f));
  p = hn::MulAdd(p, r, hn::Set(tag, 8.3336778e-2f));
  p = hn::MulAdd(p, r, hn::Set(tag, 3.3333042e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 9.9999988e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 2.0f));
  p = hn::MulAdd(p, r, hn::Set(tag, 2.0f));
  const auto exponent = hn::Add(hn::BitCast(integers, rounded), hn::Set(integers, 126));
  return hn::Mul(p, hn::BitCast(tag, hn::ShiftLeft<23>(exponent)));
}

HWY_INLINE float exp_float(float x) {
  const FloatTag tag;
  return hn::GetLane(exp_negative(hn::Set(tag, x)));
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
  // Two vectors at a time, so that one sum need not wait for the other.
  FloatVec most = hn::Set(tag, seen.most), most2 = most;
  std::size_t i = 0;
  for (; i + 2 * lanes <= columns; i += 2 * lanes) {
    most = hn::Max(most, hn::LoadU(tag, row + i));
    most2 = hn::Max(most2, hn::LoadU(tag, row + i + lanes));
  }
  if (i < columns) most = hn::Max(most, hn::LoadU(tag, row + i));
  const float above = hn::ReduceMax(tag, hn::Max(most, most2));
  const FloatVec shift = hn::Set(tag, above);
  FloatVec total = hn::Zero(tag), total2 = total;
  const auto weigh = [&](std::size_t at) HWY_ATTR {
    const FloatVec weight = exp_negative(hn::Sub(hn::LoadU(tag, row + at), shift));
    hn::StoreU(weight, tag, row + at);
    return weight;
  };
  for (i = 0; i + 2 * lanes <= columns; i += 2 * lanes) {
    total = hn::Add(total, weigh(i));
    total2 = hn::Add(total2, weigh(i + lanes));
  }
  if (i < columns) total = hn::Add(total, weigh(i));
  const float factor = seen.most == above ? 1.0f : exp_float(seen.most - above);
  seen.most = above;
  seen.total = seen.total * factor + hn::ReduceSum(tag, hn::Add(total, total2));
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
