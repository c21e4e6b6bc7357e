// Matrices of keys in panels of columns, and the sizes of a block of queries and a tile of keys.
#if defined(HSM_ATTENTION_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_PANELS_INL_H_
#undef HSM_ATTENTION_PANELS_INL_H_
#else
#define HSM_ATTENTION_PANELS_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Queries of a block and keys of a tile, a multiple of every vector length. So many queries are computed at a time,
// whose scores stay in the first-level cache; fewer where they see unequal numbers of keys of a tile. Measured.
inline constexpr std::size_t kBlockRows = 128;
inline constexpr std::size_t kTileKeys = 128;
inline constexpr std::size_t kEqualRows = 36;
inline constexpr std::size_t kUnequalRows = 16;

// Columns of a panel: what a block of a matrix product reads together lies together, because rows that are a power of
// two apart would push each other out of the first-level cache.
HWY_INLINE std::size_t panel_columns() { return 2 * hn::Lanes(FloatTag()); }

// Floats of a (depth, columns) matrix in panels.
HWY_INLINE std::size_t panel_floats(std::size_t depth, std::size_t columns) {
  return depth * round_up(columns, panel_columns());
}

// C (rows, columns) = A times panels of (depth, panel_columns()), which are `panel` floats apart.
template <typename A>
void gemm_panels(A a, std::size_t rows, const float* panels, std::size_t panel, std::size_t columns, std::size_t depth,
                 Product c) {
  const std::size_t width = panel_columns();
  for (std::size_t n = 0; n < columns; n += width) {
    gemm(a, rows, panels + n / width * panel, width, std::min(width, columns - n), depth, c.from(0, n));
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_PANELS_INL_H_
