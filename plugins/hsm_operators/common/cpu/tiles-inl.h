// Tiles of floats: rows of tokens that are copied, padded to whole vectors, and transposed.
#if defined(HSM_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_TILES_INL_H_
#undef HSM_TILES_INL_H_
#else
#define HSM_TILES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

HWY_INLINE std::size_t round_up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

// Tokens that are transposed at a time.
inline constexpr std::size_t kTransposed = 4;

// Writes the 128-bit blocks of a vector to addresses `stride` floats apart, from block kBlock on.
template <std::size_t kBlock>
HWY_INLINE void store_blocks(FloatVec value, float* to, std::size_t stride) {
  constexpr std::size_t kBlocks = HWY_MAX_LANES_D(FloatTag) / 4;
  const hn::FixedTag<float, 4> quad;
  if constexpr (kBlocks == 1) {
    hn::StoreU(hn::ResizeBitCast(quad, value), quad, to);
  } else {
    hn::StoreU(hn::ExtractBlock<kBlock>(value), quad, to + kBlock * stride);
    if constexpr (kBlock + 1 < kBlocks) store_blocks<kBlock + 1>(value, to, stride);
  }
}

// Writes four rows of `dim` floats, `row` floats apart, as four columns: to[i*stride + j] = rows[j*row + i].
inline void transpose_rows(const float* rows, std::size_t row, std::size_t dim, float* to, std::size_t stride) {
  const FloatTag tag;
  const hn::Repartition<std::uint64_t, FloatTag> pairs;
  const std::size_t lanes = hn::Lanes(tag);
  const auto both = [&](FloatVec lower, FloatVec upper) HWY_ATTR {
    return hn::BitCast(tag, hn::InterleaveLower(pairs, hn::BitCast(pairs, lower), hn::BitCast(pairs, upper)));
  };
  const auto both_upper = [&](FloatVec lower, FloatVec upper) HWY_ATTR {
    return hn::BitCast(tag, hn::InterleaveUpper(pairs, hn::BitCast(pairs, lower), hn::BitCast(pairs, upper)));
  };
  std::size_t i = 0;
  // Each 128-bit block is transposed by itself: block b of a result is column i + 4b + j of the four rows.
  for (; i + lanes <= dim; i += lanes) {
    const FloatVec a = hn::LoadU(tag, rows + i);
    const FloatVec b = hn::LoadU(tag, rows + row + i);
    const FloatVec c = hn::LoadU(tag, rows + 2 * row + i);
    const FloatVec d = hn::LoadU(tag, rows + 3 * row + i);
    const FloatVec ab = hn::InterleaveLower(tag, a, b);
    const FloatVec cd = hn::InterleaveLower(tag, c, d);
    const FloatVec ab_upper = hn::InterleaveUpper(tag, a, b);
    const FloatVec cd_upper = hn::InterleaveUpper(tag, c, d);
    store_blocks<0>(both(ab, cd), to + i * stride, 4 * stride);
    store_blocks<0>(both_upper(ab, cd), to + (i + 1) * stride, 4 * stride);
    store_blocks<0>(both(ab_upper, cd_upper), to + (i + 2) * stride, 4 * stride);
    store_blocks<0>(both_upper(ab_upper, cd_upper), to + (i + 3) * stride, 4 * stride);
  }
  for (; i < dim; ++i) {
    for (std::size_t j = 0; j < kTransposed; ++j) to[i * stride + j] = rows[j * row + i];
  }
}

// Reads `tokens` rows of values into the tile (tokens, columns), zero beyond `dim`.
template <typename T>
void pack_rows(const T* from, std::size_t stride, std::size_t tokens, std::size_t dim, std::size_t columns,
               float* tile) {
  for (std::size_t t = 0; t < tokens; ++t) {
    to_floats(from + t * stride, dim, tile + t * columns);
    std::fill(tile + t * columns + dim, tile + (t + 1) * columns, 0.0f);
  }
}

// Rows of `dim` floats, zero up to `columns` (whole vectors): the tensor's own where they are that already, else copies
// in `copy` (tokens, columns).
template <typename T>
RowMajor float_rows(const T* from, std::size_t stride, std::size_t tokens, std::size_t dim, std::size_t columns,
                    float* copy) {
  if constexpr (std::is_same_v<T, float>) {
    if (dim == columns) return {from, stride};
  }
  pack_rows(from, stride, tokens, dim, columns, copy);
  return {copy, columns};
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_TILES_INL_H_
