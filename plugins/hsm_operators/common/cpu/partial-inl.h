// Vectors of which only the first elements are there: the ends of rows of any width.
#if defined(HSM_PARTIAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_PARTIAL_INL_H_
#undef HSM_PARTIAL_INL_H_
#else
#define HSM_PARTIAL_INL_H_
#endif

#include <cstddef>
#include <type_traits>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// The first `count` elements as a vector, zeros after them.
template <typename T>
HWY_INLINE FloatVec load_first(const T* from, std::size_t count) {
  const FloatTag tag;
  if (HWY_LIKELY(count >= hn::Lanes(tag))) return load_floats(tag, from);
  if constexpr (std::is_same_v<T, float>) return hn::LoadN(tag, from, count);
  HWY_ALIGN float copy[HWY_MAX_LANES_D(FloatTag)] = {};
  for (std::size_t i = 0; i < count; ++i) copy[i] = to_float(from[i]);
  return hn::Load(tag, copy);
}

// Writes the first `count` elements of a vector.
template <typename T>
HWY_INLINE void store_first(FloatVec value, std::size_t count, T* to) {
  const FloatTag tag;
  if (HWY_LIKELY(count >= hn::Lanes(tag))) return store_floats(tag, value, to);
  if constexpr (std::is_same_v<T, float>) return hn::StoreN(value, tag, to, count);
  HWY_ALIGN float copy[HWY_MAX_LANES_D(FloatTag)];
  hn::Store(value, tag, copy);
  for (std::size_t i = 0; i < count; ++i) to[i] = from_float<T>(copy[i]);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_PARTIAL_INL_H_
