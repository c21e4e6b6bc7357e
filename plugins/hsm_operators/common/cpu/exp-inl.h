// exp of a vector of floats.
#if defined(HSM_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_EXP_INL_H_
#undef HSM_EXP_INL_H_
#else
#define HSM_EXP_INL_H_
#endif

#include <limits>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Within 1.1 units in the last place (measured over the whole range); 0 where the result would be subnormal, infinity
// above the largest float, and NaN stays NaN.
HWY_INLINE FloatVec exp_floats(FloatVec x) {
  const FloatTag tag;
  const hn::RebindToSigned<FloatTag> integers;
  // exp(x) = 2^n exp(r) with |r| <= ln(2)/2; ln(2) in two parts, of which the first times n is exact.
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(tag, 1.44269504f)));
  const FloatVec whole = hn::ConvertTo(tag, n);
  FloatVec r = hn::NegMulAdd(whole, hn::Set(tag, 0.693359375f), x);
  r = hn::NegMulAdd(whole, hn::Set(tag, -2.12194440e-4f), r);
  // (exp(r) - 1 - r) / r², fitted so that the largest relative error of exp is 3e-9.
  FloatVec p = hn::Set(tag, 1.3814599e-3f);
  p = hn::MulAdd(p, r, hn::Set(tag, 8.3687166e-3f));
  p = hn::MulAdd(p, r, hn::Set(tag, 4.1668389e-2f));
  p = hn::MulAdd(p, r, hn::Set(tag, 1.6666521e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 4.9999994e-1f));
  const FloatVec mantissa = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(tag, 1.0f));
  // In two steps: 2^128, which the largest results need, is no float.
  const auto half = hn::ShiftRight<1>(n);
  const auto power = [&](auto exponent) HWY_ATTR {
    return hn::BitCast(tag, hn::ShiftLeft<23>(hn::Add(exponent, hn::Set(integers, 127))));
  };
  const FloatVec result = hn::Mul(hn::Mul(mantissa, power(half)), power(hn::Sub(n, half)));
  const FloatVec bounded =
      hn::IfThenElse(hn::Gt(x, hn::Set(tag, 88.7228f)), hn::Set(tag, std::numeric_limits<float>::infinity()), result);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(tag, -87.3365f)), bounded);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_EXP_INL_H_
