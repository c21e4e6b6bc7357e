// exp of a vector of floats.
#if defined(HSM_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_EXP_INL_H_
#undef HSM_EXP_INL_H_
#else
#define HSM_EXP_INL_H_
#endif

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Within 1.1 units in the last place (measured over the whole range); 0 below 2^-125, infinity above the largest float,
// and NaN stays NaN.
HWY_INLINE FloatVec exp_floats(FloatVec x) {
  const FloatTag tag;
  const hn::RebindToSigned<FloatTag> integers;
  // Powers of 2 from -126, which becomes 0, to 128. NaN passes as the second argument of Min and Max.
  x = hn::Max(hn::Set(tag, -87.3f), hn::Min(hn::Set(tag, 89.0f), x));
  // exp(x) = 2^n exp(r) with |r| <= ln(2)/2. Adding 1.5·2^23 rounds to whole numbers and leaves them in the low bits.
  const FloatVec round = hn::Set(tag, 12582912.0f);
  const FloatVec rounded = hn::MulAdd(x, hn::Set(tag, 1.44269504f), round);
  const FloatVec n = hn::Sub(rounded, round);
  // ln(2) in two parts, of which the first times n is exact.
  FloatVec r = hn::NegMulAdd(n, hn::Set(tag, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(tag, -2.12194440e-4f), r);
  // (exp(r) - 1 - r) / r², fitted so that the largest relative error of exp is 3e-9.
  FloatVec p = hn::Set(tag, 1.3814599e-3f);
  p = hn::MulAdd(p, r, hn::Set(tag, 8.3687166e-3f));
  p = hn::MulAdd(p, r, hn::Set(tag, 4.1668389e-2f));
  p = hn::MulAdd(p, r, hn::Set(tag, 1.6666521e-1f));
  p = hn::MulAdd(p, r, hn::Set(tag, 4.9999994e-1f));
  // Twice exp(r) times 2^(n-1), because 2^128 is no float.
  const FloatVec r2 = hn::Add(r, r);
  const FloatVec twice = hn::Add(hn::MulAdd(hn::Mul(r2, r), p, r2), hn::Set(tag, 2.0f));
  const auto exponent = hn::Add(hn::BitCast(integers, rounded), hn::Set(integers, 126));
  return hn::Mul(twice, hn::BitCast(tag, hn::ShiftLeft<23>(exponent)));
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_EXP_INL_H_
