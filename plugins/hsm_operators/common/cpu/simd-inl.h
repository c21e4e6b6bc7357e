// Vectors of floats from and to the element types, for the instruction set that is being compiled.
// Included once per target by Highway's foreach_target.h, so the guard toggles.
#if defined(HSM_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_SIMD_INL_H_
#undef HSM_SIMD_INL_H_
#else
#define HSM_SIMD_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/types.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// Pointers need only the alignment of their elements.
HWY_INLINE FloatVec load_floats(FloatTag tag, const float* from) { return hn::LoadU(tag, from); }

HWY_INLINE FloatVec load_floats(FloatTag tag, const BFloat16* from) {
  const hn::Rebind<std::uint16_t, FloatTag> narrow;
  const hn::Rebind<std::uint32_t, FloatTag> wide;
  const auto bits = hn::PromoteTo(wide, hn::LoadU(narrow, &from->bits));
  return hn::BitCast(tag, hn::ShiftLeft<16>(bits));
}

HWY_INLINE FloatVec load_floats(FloatTag tag, const Half* from) {
  const hn::Rebind<hwy::float16_t, FloatTag> narrow;
  const hn::Rebind<std::uint16_t, FloatTag> bits;
  return hn::PromoteTo(tag, hn::BitCast(narrow, hn::LoadU(bits, &from->bits)));
}

HWY_INLINE void store_floats(FloatTag tag, FloatVec value, float* to) { hn::StoreU(value, tag, to); }

// Rounds to nearest, ties to even; NaN stays NaN.
HWY_INLINE void store_floats(FloatTag tag, FloatVec value, BFloat16* to) {
  const hn::Rebind<std::uint32_t, FloatTag> wide;
  const hn::Rebind<std::uint16_t, FloatTag> narrow;
  const auto bits = hn::BitCast(wide, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(wide, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(wide, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(wide, 0x400000));
  const auto chosen = hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(value)), quiet, rounded);
  hn::StoreU(hn::TruncateTo(narrow, hn::ShiftRight<16>(chosen)), narrow, &to->bits);
  static_cast<void>(tag);
}

HWY_INLINE void store_floats(FloatTag tag, FloatVec value, Half* to) {
  const hn::Rebind<hwy::float16_t, FloatTag> narrow;
  const hn::Rebind<std::uint16_t, FloatTag> bits;
  hn::StoreU(hn::BitCast(bits, hn::DemoteTo(narrow, value)), bits, &to->bits);
  static_cast<void>(tag);
}

// Converts `count` elements to floats. The two buffers do not overlap.
template <typename T>
void to_floats(const T* from, std::size_t count, float* to) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  if (count < lanes) {
    for (std::size_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
    return;
  }
  // The last vector may overlap the one before it, which is quicker than a remainder loop.
  for (std::size_t i = 0; i + lanes < count; i += lanes) hn::StoreU(load_floats(tag, from + i), tag, to + i);
  hn::StoreU(load_floats(tag, from + count - lanes), tag, to + count - lanes);
}

// Rounds `count` floats to the element type. The two buffers do not overlap.
template <typename T>
void from_floats(const float* from, std::size_t count, T* to) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  if (count < lanes) {
    for (std::size_t i = 0; i < count; ++i) to[i] = from_float<T>(from[i]);
    return;
  }
  for (std::size_t i = 0; i + lanes < count; i += lanes) store_floats(tag, hn::LoadU(tag, from + i), to + i);
  store_floats(tag, hn::LoadU(tag, from + count - lanes), to + count - lanes);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_SIMD_INL_H_
