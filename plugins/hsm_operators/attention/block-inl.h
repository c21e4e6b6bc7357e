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
#include "hsm_operators/attention/softmax-inl.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Queries of a block and keys of a tile; a multiple of every vector length. Measured.
inline constexpr std::size_t kBlockRows = 64;
inline constexpr std::size_t kTileKeys = 128;

// What a block of queries needs besides its inputs: its size does not depend on the number of keys.
struct BlockScratch {
  BlockScratch(std::size_t dim, std::size_t value_columns)
      : buffers({kBlockRows * dim, dim * kTileKeys, kTileKeys * value_columns, kBlockRows * kTileKeys,
                 kBlockRows * value_columns, kTransposed * dim}) {}

  cpu::ScratchBuffers<6> buffers;
  float* queries = buffers[0];  // (rows, d), scaled
  float* keys = buffers[1];     // (d, kTileKeys)
  float* values = buffers[2];   // (kTileKeys, columns), where they are not read in place
  float* scores = buffers[3];   // (rows, kTileKeys)
  float* y = buffers[4];        // (rows, columns)
  float* rows = buffers[5];     // (kTransposed, d)
  AttentionSeen seen[kBlockRows];
};

// Reads keys as columns: (d, kTileKeys), zero up to the next whole vector.
template <typename T>
void pack_keys(const T* from, std::size_t stride, std::size_t count, std::size_t dim, float* rows, float* tile) {
  const std::size_t columns = round_up(count, hn::Lanes(FloatTag()));
  for (std::size_t i = 0; count < columns && i < dim; ++i) {
    std::fill(tile + i * kTileKeys + count, tile + i * kTileKeys + columns, 0.0f);
  }
  std::size_t j = 0;
  for (; j + kTransposed <= count; j += kTransposed) {
    if constexpr (std::is_same_v<T, float>) {
      transpose_rows(from + j * stride, stride, dim, tile + j, kTileKeys);
    } else {
      for (std::size_t r = 0; r < kTransposed; ++r) to_floats(from + (j + r) * stride, dim, rows + r * dim);
      transpose_rows(rows, dim, dim, tile + j, kTileKeys);
    }
  }
  for (; j < count; ++j) {
    to_floats(from + j * stride, dim, rows);
    for (std::size_t i = 0; i < dim; ++i) tile[i * kTileKeys + j] = rows[i];
  }
}

// Adds the keys [begin, end) of a piece to what the rows [first, last) have seen.
template <typename T>
void attend_tile(const AttentionGroup<T>& group, const AttentionPiece<T>& piece, KeyRange keys, std::size_t first,
                 std::size_t last, std::size_t columns, BlockScratch& s) {
  const std::size_t count = keys.end - keys.begin, rows = last - first;
  const std::size_t padded = round_up(count, hn::Lanes(FloatTag()));
  pack_keys(piece.k + keys.begin * group.k_stride, group.k_stride, count, group.dim, s.rows, s.keys);
  gemm(RowMajor{s.queries, group.dim}, rows, s.keys, kTileKeys, padded, group.dim, Product{s.scores, kTileKeys, false});
  for (std::size_t r = 0; r < rows; ++r) {
    const KeyRange seen = group.visible(piece, first + r);
    const auto inside = [&](std::size_t key) { return std::clamp(key, keys.begin, keys.end) - keys.begin; };
    const float factor = weigh_row(s.scores + r * kTileKeys, padded, inside(seen.begin), inside(seen.end), s.seen[r]);
    if (factor != 1.0f) scale_row(s.y + r * columns, columns, factor);
  }
  const RowMajor values =
      float_rows(piece.v + keys.begin * group.v_stride, group.v_stride, count, group.value_dim, columns, s.values);
  gemm(RowMajor{s.scores, kTileKeys}, rows, values.data, values.stride, columns, count, Product{s.y, columns, true});
}

// The queries [first, last) of a group, at most kBlockRows.
template <typename T>
void attend_block(const AttentionGroup<T>& group, std::size_t first, std::size_t last) {
  const std::size_t columns = round_up(group.value_dim, hn::Lanes(FloatTag()));
  BlockScratch s(group.dim, columns);
  for (std::size_t r = first; r < last; ++r) {
    float* query = s.queries + (r - first) * group.dim;
    to_floats(group.query(r), group.dim, query);
    for (std::size_t i = 0; i < group.dim; ++i) query[i] *= group.scale;
  }
  std::fill_n(s.y, (last - first) * columns, 0.0f);
  for (std::size_t p = 0; p < group.used; ++p) {
    const AttentionPiece<T>& piece = group.pieces[p];
    const KeyRange seen = group.visible(piece, first, last);
    for (std::size_t begin = seen.begin; begin < seen.end; begin += kTileKeys) {
      attend_tile(group, piece, {begin, std::min(begin + kTileKeys, seen.end)}, first, last, columns, s);
    }
  }
  for (std::size_t r = first; r < last; ++r) {
    write_result(s.y + (r - first) * columns, columns, group.value_dim, s.seen[r - first], group.result(r));
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_BLOCK_INL_H_
