// Attention of many queries: tiles of keys times a block of queries, by matrix products.
#if defined(HSM_ATTENTION_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_BLOCK_INL_H_
#undef HSM_ATTENTION_BLOCK_INL_H_
#else
#define HSM_ATTENTION_BLOCK_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "hwy/highway.h"
#include "hsm_operators/attention/group-inl.h"
#include "hsm_operators/attention/panels-inl.h"
#include "hsm_operators/attention/relative-inl.h"
#include "hsm_operators/attention/softmax-inl.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/partial-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// A tile of keys and values in panels of columns: keys are (d, panel_columns()) each, values (kTileKeys,
// panel_columns()).
struct TileLayout {
  TileLayout(std::size_t dim, std::size_t value_dim)
      : keys(panel_floats(dim, kTileKeys)), values(panel_floats(kTileKeys, value_dim)) {}

  std::size_t floats() const { return keys + values; }

  std::size_t keys;
  std::size_t values;
};

// What a block of queries needs besides its inputs: its size does not depend on the number of keys.
struct BlockScratch {
  BlockScratch(std::size_t dim, std::size_t value_dim)
      : layout(dim, value_dim),
        columns(round_up(value_dim, hn::Lanes(FloatTag()))),
        buffers({kBlockRows * dim, layout.floats(), kBlockRows * kTileKeys, kBlockRows * columns, kTransposed * dim}) {}

  TileLayout layout;
  std::size_t columns;
  cpu::ScratchBuffers<5> buffers;
  float* queries = buffers[0];  // (rows, d), scaled
  float* tile = buffers[1];     // where the call did not pack all tiles
  float* scores = buffers[2];   // (rows, kTileKeys)
  float* y = buffers[3];        // (rows, columns)
  float* rows = buffers[4];     // (kTransposed, d)
  AttentionSeen seen[kBlockRows];
};

// Reads keys as columns of panels, zero up to the next whole vector.
template <typename T>
void pack_keys(const T* from, std::size_t stride, std::size_t count, std::size_t dim, float* rows, float* panels) {
  const std::size_t width = panel_columns(), columns = round_up(count, hn::Lanes(FloatTag()));
  const auto column = [&](std::size_t j) { return panels + j / width * width * dim + j % width; };
  std::size_t j = 0;
  for (; j + kTransposed <= count; j += kTransposed) {
    if constexpr (std::is_same_v<T, float>) {
      transpose_rows(from + j * stride, stride, dim, column(j), width);
    } else {
      for (std::size_t r = 0; r < kTransposed; ++r) to_floats(from + (j + r) * stride, dim, rows + r * dim);
      transpose_rows(rows, dim, dim, column(j), width);
    }
  }
  for (; j < columns; ++j) {
    if (j < count) to_floats(from + j * stride, dim, rows);
    for (std::size_t i = 0; i < dim; ++i) column(j)[i * width] = j < count ? rows[i] : 0.0f;
  }
}

// Reads values as panels, zero up to the next whole vector.
template <typename T>
void pack_values(const T* from, std::size_t stride, std::size_t count, std::size_t dim, float* panels) {
  const std::size_t width = panel_columns();
  for (std::size_t i = 0; i < dim; i += width, panels += kTileKeys * width) {
    const std::size_t used = std::min(width, dim - i), columns = round_up(used, hn::Lanes(FloatTag()));
    for (std::size_t j = 0; j < count; ++j) {
      to_floats(from + j * stride + i, used, panels + j * width);
      std::fill(panels + j * width + used, panels + j * width + columns, 0.0f);
    }
  }
}

// Reads tile `index` of a piece.
template <typename T>
void pack_tile(const AttentionGroup<T>& group, const AttentionPiece<T>& piece, std::size_t index, float* rows,
               float* tile) {
  const std::size_t begin = index * kTileKeys;
  const std::size_t count = std::min(kTileKeys, static_cast<std::size_t>(piece.count) - begin);
  pack_keys(piece.k + begin * group.k_stride, group.k_stride, count, group.dim, rows, tile);
  pack_values(piece.v + begin * group.v_stride, group.v_stride, count, group.value_dim,
              tile + TileLayout(group.dim, group.value_dim).keys);
}

// Tiles of all pieces.
template <typename T>
std::size_t tiles_of(const AttentionPiece<T>& piece) {
  return (static_cast<std::size_t>(piece.count) + kTileKeys - 1) / kTileKeys;
}

// Reads tile `index` of all pieces, if there are as many.
template <typename T>
void pack_group_tile(const AttentionGroup<T>& group, std::size_t index, float* tile) {
  for (std::size_t p = 0; p < group.used; ++p) {
    const std::size_t tiles = tiles_of(group.pieces[p]);
    if (index < tiles) {
      const cpu::ScratchBuffers<1> rows({kTransposed * group.dim});
      return pack_tile(group, group.pieces[p], index, rows[0], tile);
    }
    index -= tiles;
  }
}

// Adds the keys [begin, end) of a packed tile to what the rows [first, last) of the block have seen, where some of them
// may see fewer unless they are `equal`: those of row r are visible(r), at offset(r) from its own position on.
template <typename T, typename Visible, typename Offset>
void attend_rows(const AttentionGroup<T>& group, KeyRange keys, std::size_t first, std::size_t last, bool equal,
                 const float* tile, const Visible& visible, const Offset& offset, RelativeStrips& strips,
                 BlockScratch& s) {
  const std::size_t width = panel_columns(), rows = last - first;
  const std::size_t begin = keys.begin / width * width;  // the panel's first column
  const std::size_t padded = round_up(keys.end, hn::Lanes(FloatTag())) - begin;
  float* scores = s.scores + first * kTileKeys + begin;
  gemm_panels(RowMajor{s.queries + first * group.dim, group.dim}, rows, tile + begin * group.dim, width * group.dim,
              padded, group.dim, Product{scores, kTileKeys, false});
  const bool whole = equal && !group.is_relative() && keys.begin == begin && keys.end == begin + padded;
  for (std::size_t r = 0; r < rows && !whole; ++r) {
    const KeyRange own = visible(first + r);
    if (group.is_relative() && own.begin < own.end) {
      const std::int64_t least = offset(first + r) + static_cast<std::int64_t>(own.begin);
      strips.add(group, first + r, least, own.end - own.begin, scores + r * kTileKeys + own.begin - begin);
    }
    hide_scores(scores + r * kTileKeys, padded, std::max(own.begin, begin) - begin, std::max(own.end, begin) - begin);
  }
  float factors[kBlockRows];
  std::size_t r = 0;
  for (; r + kWeighedRows <= rows; r += kWeighedRows) {
    weigh_rows<kWeighedRows>(scores + r * kTileKeys, kTileKeys, padded, s.seen + first + r, factors + r);
  }
  for (; r < rows; ++r) weigh_rows<1>(scores + r * kTileKeys, kTileKeys, padded, s.seen + first + r, factors + r);
  for (r = 0; r < rows; ++r) {
    if (factors[r] != 1.0f) scale_row(s.y + (first + r) * s.columns, s.columns, factors[r]);
  }
  gemm_panels(RowMajor{scores, kTileKeys}, rows, tile + s.layout.keys + begin * width, kTileKeys * width, s.columns,
              keys.end - begin, Product{s.y + first * s.columns, s.columns, true});
}

// Adds tile `index` of a piece to what the rows [first, last) of a group have seen.
template <typename T>
void attend_tile(const AttentionGroup<T>& group, const AttentionPiece<T>& piece, std::size_t index, const float* tile,
                 std::size_t first, std::size_t last, RelativeStrips& strips, BlockScratch& s) {
  const std::size_t start = index * kTileKeys, rows = last - first;
  const std::size_t count = std::min(kTileKeys, static_cast<std::size_t>(piece.count) - start);
  const auto visible = [&](std::size_t row) {
    const KeyRange seen = group.visible(piece, first + row);
    const auto inside = [&](std::size_t key) { return std::clamp(key, start, start + count) - start; };
    return KeyRange{inside(seen.begin), inside(seen.end)};
  };
  const auto offset = [&](std::size_t row) {
    return piece.first + static_cast<std::int64_t>(start) - group.position(first + row);
  };
  // Later rows see later keys: the first one's last key and the last one's first key say whether all see all.
  const bool equal = visible(0).end == count && visible(rows - 1).begin == 0;
  const std::size_t together = equal ? kEqualRows : kUnequalRows;
  for (std::size_t begin = 0; begin < rows; begin += together) {
    const std::size_t end = std::min(begin + together, rows);
    const KeyRange seen{visible(begin).begin, visible(end - 1).end};
    if (seen.begin < seen.end) attend_rows(group, seen, begin, end, equal, tile, visible, offset, strips, s);
  }
}

// The queries [first, last) of a group, at most kBlockRows. `packed` holds all tiles of the group, one after the other,
// or is null.
template <typename T>
void attend_block(const AttentionGroup<T>& group, std::size_t first, std::size_t last, const float* packed) {
  const FloatTag tag;
  BlockScratch s(group.dim, group.value_dim);
  const FloatVec scale = hn::Set(tag, group.scale);
  for (std::size_t r = first; r < last; ++r) {
    const T* query = group.query(r);
    float* to = s.queries + (r - first) * group.dim;
    for (std::size_t i = 0; i < group.dim; i += hn::Lanes(tag)) {
      store_first(hn::Mul(load_first(query + i, group.dim - i), scale), group.dim - i, to + i);
    }
  }
  std::fill_n(s.y, (last - first) * s.columns, 0.0f);
  RelativeStrips strips(group, s.queries, first, last - first);
  for (std::size_t p = 0; p < group.used; ++p) {
    const AttentionPiece<T>& piece = group.pieces[p];
    const KeyRange seen = group.visible(piece, first, last);
    for (std::size_t index = seen.begin / kTileKeys; index * kTileKeys < seen.end; ++index) {
      if (packed == nullptr) pack_tile(group, piece, index, s.rows, s.tile);
      attend_tile(group, piece, index, packed == nullptr ? s.tile : packed + index * s.layout.floats(), first, last,
                  strips, s);
    }
    if (packed != nullptr) packed += tiles_of(piece) * s.layout.floats();
  }
  for (std::size_t r = first; r < last; ++r) {
    const std::size_t row = r - first;
    write_result(s.y + row * s.columns, s.columns, group.value_dim, s.seen[row], group.result(r));
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_BLOCK_INL_H_
