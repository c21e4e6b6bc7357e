// Scores of relative positions: the products of queries with the keys of distances, added where the keys stand. Where a
// key is at offset o from its query, o = its position - the query's, their distance is -o.
#if defined(HSM_ATTENTION_RELATIVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_RELATIVE_INL_H_
#undef HSM_ATTENTION_RELATIVE_INL_H_
#else
#define HSM_ATTENTION_RELATIVE_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "hsm_operators/attention/group-inl.h"
#include "hsm_operators/attention/panels-inl.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/partial-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Offsets of a strip. A block of queries and a tile of keys, of as many each, are less than twice as many apart, and so
// in at most three strips; the next tile needs one more.
inline constexpr std::size_t kStripOffsets = kTileKeys;
inline constexpr std::size_t kStrips = 3;

// The products of a block's queries with strips of the keys of distances.
class RelativeStrips {
 public:
  // `queries` (rows, d) are the group's rows from `first` on, scaled.
  template <typename T>
  RelativeStrips(const AttentionGroup<T>& group, const float* queries, std::size_t first, std::size_t rows)
      : queries_(queries),
        first_(first),
        rows_(rows),
        buffers_({group.is_relative() ? kStrips * rows * kStripOffsets : 0,
                  group.is_relative() ? panel_floats(group.dim, kStripOffsets) : 0, kTransposed * group.dim}) {
    held_.fill(std::numeric_limits<std::int64_t>::max());
  }

  // Adds the products of the block's query `row` with the keys of `count` offsets, from `offset` on.
  template <typename T>
  void add(const AttentionGroup<T>& group, std::size_t row, std::int64_t offset, std::size_t count, float* to) {
    const FloatTag tag;
    constexpr auto kWidth = static_cast<std::int64_t>(kStripOffsets);
    while (count > 0) {
      const std::int64_t strip = (offset >= 0 ? offset : offset - kWidth + 1) / kWidth;
      const auto column = static_cast<std::size_t>(offset - strip * kWidth);
      const std::size_t here = std::min(count, kStripOffsets - column);
      const float* from = scores(group, strip) + row * kStripOffsets + column;
      for (std::size_t i = 0; i < here; i += hn::Lanes(tag)) {
        store_first(hn::Add(load_first(to + i, here - i), load_first(from + i, here - i)), here - i, to + i);
      }
      to += here, count -= here, offset += static_cast<std::int64_t>(here);
    }
  }

 private:
  // (rows, kStripOffsets), computed unless it is held.
  template <typename T>
  const float* scores(const AttentionGroup<T>& group, std::int64_t strip) {
    constexpr auto kCount = static_cast<std::int64_t>(kStrips);
    const auto place = static_cast<std::size_t>((strip % kCount + kCount) % kCount);
    float* out = buffers_[0] + place * rows_ * kStripOffsets;
    if (held_[place] == strip) return out;
    held_[place] = strip;
    const std::int64_t start = strip * static_cast<std::int64_t>(kStripOffsets);
    for (std::size_t head = 0; head < group.shared; ++head) {
      // The block's rows of that head are `shared` apart.
      const std::size_t begin = (head + group.shared - first_ % group.shared) % group.shared;
      if (begin >= rows_) continue;
      pack(group, start, head);
      gemm_panels(RowMajor{queries_ + begin * group.dim, group.shared * group.dim},
                  (rows_ - begin + group.shared - 1) / group.shared, buffers_[1], panel_columns() * group.dim,
                  kStripOffsets, group.dim, Product{out + begin * kStripOffsets, group.shared * kStripOffsets, false});
    }
    return out;
  }

  // Reads the keys of a strip as columns of panels, zeros where there are none.
  template <typename T>
  void pack(const AttentionGroup<T>& group, std::int64_t start, std::size_t head) {
    const std::size_t width = panel_columns(), dim = group.dim;
    for (std::size_t j = 0; j < kStripOffsets; j += kTransposed) {
      for (std::size_t r = 0; r < kTransposed; ++r) {
        const std::int64_t offset = start + static_cast<std::int64_t>(j + r);
        float* row = buffers_[2] + r * dim;
        if (offset < group.least_offset || offset > group.most_offset) {
          std::fill_n(row, dim, 0.0f);
        } else {
          to_floats(group.relative(-offset) + head * dim, dim, row);
        }
      }
      transpose_rows(buffers_[2], dim, dim, buffers_[1] + j / width * width * dim + j % width, width);
    }
  }

  const float* queries_;
  std::size_t first_;
  std::size_t rows_;
  cpu::ScratchBuffers<3> buffers_;  // scores of the strips, panels, rows
  std::array<std::int64_t, kStrips> held_{};
};

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_RELATIVE_INL_H_
