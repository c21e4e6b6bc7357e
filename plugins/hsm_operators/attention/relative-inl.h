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
#include <type_traits>

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

// Offsets of a strip; the last one that causal attention needs ends with offset 0. A block of queries and a tile of
// keys, of as many each, are less than twice as many apart, and so in at most three strips; the next tile needs one
// more.
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
        least_(rows == 0 ? 0 : std::max(group.least_offset, -group.position(first + rows - 1))),
        most_(group.causal ? 0 : group.most_offset),
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
      const std::int64_t strip = (offset > 0 ? offset - 1 : offset - kWidth) / kWidth;
      const auto column = static_cast<std::size_t>(offset - 1 - strip * kWidth);
      const std::size_t here = std::min(count, kStripOffsets - column), lanes = hn::Lanes(tag);
      const float* from = scores(group, strip) + row * kStripOffsets + column;
      std::size_t i = 0;
      for (; i + lanes <= here; i += lanes) {
        hn::StoreU(hn::Add(hn::LoadU(tag, to + i), hn::LoadU(tag, from + i)), tag, to + i);
      }
      if (i < here)
        store_first(hn::Add(load_first(to + i, here - i), load_first(from + i, here - i)), here - i, to + i);
      to += here, count -= here, offset += static_cast<std::int64_t>(here);
    }
  }

 private:
  // (rows, kStripOffsets), computed unless it is held, as far as the block needs it.
  template <typename T>
  const float* scores(const AttentionGroup<T>& group, std::int64_t strip) {
    constexpr auto kCount = static_cast<std::int64_t>(kStrips), kWidth = static_cast<std::int64_t>(kStripOffsets);
    const auto place = static_cast<std::size_t>((strip % kCount + kCount) % kCount);
    float* out = buffers_[0] + place * rows_ * kStripOffsets;
    if (held_[place] == strip) return out;
    held_[place] = strip;
    const std::int64_t start = strip * kWidth + 1;
    const auto column = [&](std::int64_t offset) {
      return static_cast<std::size_t>(std::clamp<std::int64_t>(offset - start, 0, kWidth));
    };
    const std::size_t width = panel_columns(), dim = group.dim;
    const std::size_t from = column(least_) / width * width, to = round_up(column(most_ + 1), width);
    for (std::size_t head = 0; head < group.shared; ++head) {
      // The block's rows of that head are `shared` apart.
      const std::size_t begin = (head + group.shared - first_ % group.shared) % group.shared;
      if (begin >= rows_) continue;
      for (std::size_t j = from; j < to; j += kTransposed) {
        pack(group, start + static_cast<std::int64_t>(j), head, buffers_[1] + j / width * width * dim + j % width);
      }
      gemm_panels(RowMajor{queries_ + begin * dim, group.shared * dim},
                  (rows_ - begin + group.shared - 1) / group.shared, buffers_[1] + from * dim, width * dim, to - from,
                  dim, Product{out + begin * kStripOffsets + from, group.shared * kStripOffsets, false});
    }
    return out;
  }

  // Reads the keys of kTransposed offsets as columns of a panel, zeros where there are none.
  template <typename T>
  void pack(const AttentionGroup<T>& group, std::int64_t offset, std::size_t head, float* panel) {
    const std::size_t width = panel_columns(), dim = group.dim;
    const std::int64_t last = offset + static_cast<std::int64_t>(kTransposed) - 1;
    if constexpr (std::is_same_v<T, float>) {
      // Where offsets rise as the memory does.
      const bool rising = group.relative_step < 0 && -offset < group.new_distance;
      if (rising && offset >= group.least_offset && last <= group.most_offset) {
        const auto stride = static_cast<std::size_t>(-group.relative_step);
        return transpose_rows(group.relative(-offset) + head * dim, stride, dim, panel, width);
      }
    }
    for (std::size_t r = 0; r < kTransposed; ++r) {
      const std::int64_t own = offset + static_cast<std::int64_t>(r);
      float* row = buffers_[2] + r * dim;
      if (own < group.least_offset || own > group.most_offset) {
        std::fill_n(row, dim, 0.0f);
      } else {
        to_floats(group.relative(-own) + head * dim, dim, row);
      }
    }
    transpose_rows(buffers_[2], dim, dim, panel, width);
  }

  const float* queries_;
  std::size_t first_;
  std::size_t rows_;
  std::int64_t least_;  // offsets that the block's queries need
  std::int64_t most_;
  cpu::ScratchBuffers<3> buffers_;  // scores of the strips, panels, rows
  std::array<std::int64_t, kStrips> held_{};
};

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_RELATIVE_INL_H_
