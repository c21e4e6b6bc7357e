// ReLU and GELU of vectors of floats.
#if defined(HSM_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ACTIVATION_INL_H_
#undef HSM_ACTIVATION_INL_H_
#else
#define HSM_ACTIVATION_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/exp-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/expert_mlp/activation.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

template <std::size_t kCount>
HWY_INLINE FloatVec polynomial(FloatVec x, const float (&coefficients)[kCount]) {
  const FloatTag tag;
  FloatVec sum = hn::Set(tag, coefficients[kCount - 1]);
  for (std::size_t i = kCount - 1; i-- > 0;) sum = hn::MulAdd(sum, x, hn::Set(tag, coefficients[i]));
  return sum;
}

// erf(x) / x of x², for |x| < 1: relative error 1.2e-9 before rounding.
inline constexpr float kErf[] = {1.12837917f,   -0.376126258f,    0.112835852f,   -0.0268538131f,
                                 0.0051883296f, -0.000801020881f, 7.85390769e-05f};
// -ln(erfc(x)) - x² for 1 <= x <= 5.5: an error of 5e-9 at 1, and of more where erfc is small.
inline constexpr float kErfc[] = {-0.000188524036f, 1.12965263f,      -0.367091862f,  0.108971328f,    -0.0257394452f,
                                  0.00450259161f,   -0.000538846787f, 3.8907343e-05f, -1.26696315e-06f};

// 1 + erf(x), or 1 - erf(-x), whose digits stay where it is small.
HWY_INLINE FloatVec one_plus_erf(FloatVec x) {
  const FloatTag tag;
  const FloatVec one = hn::Set(tag, 1.0f);
  const FloatVec square = hn::Mul(x, x);
  const FloatVec size = hn::Abs(x);
  const FloatVec inside = hn::MulAdd(x, polynomial(square, kErf), one);
  const FloatVec exponent = hn::Add(square, polynomial(hn::Min(size, hn::Set(tag, 5.5f)), kErfc));
  const FloatVec tail = exp_floats(hn::Neg(exponent));
  const FloatVec outside = hn::IfThenElse(hn::Lt(x, hn::Zero(tag)), tail, hn::Sub(hn::Set(tag, 2.0f), tail));
  return hn::IfThenElse(hn::Lt(size, one), inside, outside);
}

HWY_INLINE FloatVec activate(FloatVec h, Activation activation) {
  const FloatTag tag;
  // A NaN is not less than 0, so it stays.
  if (activation == Activation::kRelu) return hn::IfThenElse(hn::Lt(h, hn::Zero(tag)), hn::Zero(tag), h);
  if (activation == Activation::kGelu) {
    return hn::Mul(hn::Mul(h, hn::Set(tag, 0.5f)), one_plus_erf(hn::Mul(h, hn::Set(tag, 0.70710678118654752f))));
  }
  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))
  const FloatVec one = hn::Set(tag, 1.0f);
  const FloatVec cubic = hn::MulAdd(hn::Mul(h, h), hn::Set(tag, 0.044715f), one);
  const FloatVec exponent = hn::Mul(hn::Mul(h, cubic), hn::Set(tag, -1.59576912160573071f));
  return hn::Div(h, hn::Add(one, exp_floats(exponent)));
}

// Activates `count` floats where they are, up to the next whole vector.
inline void activate(float* values, std::size_t count, Activation activation) {
  const FloatTag tag;
  for (std::size_t i = 0; i < count; i += hn::Lanes(tag)) {
    hn::StoreU(activate(hn::LoadU(tag, values + i), activation), tag, values + i);
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ACTIVATION_INL_H_
