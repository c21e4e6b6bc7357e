// Softmax over keys that arrive tile by tile: each query keeps the largest score so far, the sum of its weights and
// their sum times the values, both relative to that score. Scores are times log2(e), so that weights are powers of 2.
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
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// 2^x of numbers that are at most 0, with the polynomial of `exp_floats`; 0 below 2^-125, NaN stays NaN.
HWY_INLINE FloatVec power_of_2(FloatVec x) {
  const FloatTag tag;
  const hn::RebindToUnsigned<FloatTag> integers;
  x = hn::Max(hn::Set(tag, -126.0f), x);  // NaN passes as the second argument
  // Adding 1.5·2^23 rounds to whole numbers and leaves them in the low bits; 126 more make them the exponents of half
  // the powers, so that 2^-126 becomes 0.
  const FloatVec round = hn::Set(tag, 12582912.0f + 126.0f);
  const FloatVec rounded = hn::Add(x, round);
  const FloatVec r = hn::Sub(x, hn::Sub(rounded, round));
  // Twice 2^r.
  FloatVec p = hn::Set(tag, 3.0642278e-4f);
  p = hn::MulAdd(p, r, hn::Set(tag, 2.6780345e-3f));
  p = hn::MulAdd(p, r, hn::Set(tag, 1.9237053e-2f));
  p = hn::MulAdd(p, r, hn::Set(tag, 1.1100725e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 4.8045296e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 1.3862944f));
  p = hn::MulAdd(p, r, hn::Set(tag, 2.0f));
  return hn::Mul(p, hn::BitCast(tag, hn::ShiftLeft<23>(hn::BitCast(integers, rounded))));
}

HWY_INLINE float power_of_2(float x) {
  const FloatTag tag;
  return hn::GetLane(power_of_2(hn::Set(tag, x)));
}

// Hides the scores of a row outside of [begin, end).
inline void hide_scores(float* HWY_RESTRICT row, std::size_t columns, std::size_t begin, std::size_t end) {
  const float hidden = -std::numeric_limits<float>::infinity();
  std::fill_n(row, begin, hidden);
  std::fill(row + std::max(begin, end), row + columns, hidden);
}

// Rows that are weighed together, so that none waits for the sums of another.
inline constexpr std::size_t kWeighedRows = 4;

// Turns the scores of kRows rows, `stride` apart and of `columns` (whole vectors) each, into weights, those of hidden
// ones into zeros, and writes the factors by which what was summed before shrinks.
template <std::size_t kRows>
void weigh_rows(float* HWY_RESTRICT rows, std::size_t stride, std::size_t columns, AttentionSeen* seen,
                float* HWY_RESTRICT factors) {
  static_assert(kRows <= kWeighedRows, "their factors fit in the shortest vector");
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  FloatVec most[kRows], shift[kRows], total[kRows];
  for (std::size_t r = 0; r < kRows; ++r) most[r] = hn::Set(tag, seen[r].most);
  for (std::size_t i = 0; i < columns; i += lanes) {
    for (std::size_t r = 0; r < kRows; ++r) most[r] = hn::Max(most[r], hn::LoadU(tag, rows + r * stride + i));
  }
  HWY_ALIGN float shrunk[HWY_MAX_LANES_D(FloatTag)] = {};
  for (std::size_t r = 0; r < kRows; ++r) {
    const float above = hn::ReduceMax(tag, most[r]);
    shrunk[r] = seen[r].most - above;
    seen[r].most = above;
    shift[r] = hn::Set(tag, above);
    total[r] = hn::Zero(tag);
  }
  for (std::size_t i = 0; i < columns; i += lanes) {
    for (std::size_t r = 0; r < kRows; ++r) {
      float* at = rows + r * stride + i;
      const FloatVec weight = power_of_2(hn::Sub(hn::LoadU(tag, at), shift[r]));
      hn::StoreU(weight, tag, at);
      total[r] = hn::Add(total[r], weight);
    }
  }
  hn::Store(power_of_2(hn::Load(tag, shrunk)), tag, shrunk);
  for (std::size_t r = 0; r < kRows; ++r) {
    factors[r] = shrunk[r];
    seen[r].total = seen[r].total * factors[r] + hn::ReduceSum(tag, total[r]);
  }
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
