// What the bidirectional and the causal TaylorShift kernels share: packing, features, and the two forms on tiles.
//
// A tile of tokens is kept transposed, (d, tokens), so that features are products of whole rows of vectors. Feature
// rows are in the order of the causal state: 1, x, then x_i x_((i+delta) mod d); the weight 1/2 of delta = 0 is on the
// sums.
#if defined(HSM_TAYLOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_TAYLOR_INL_H_
#undef HSM_TAYLOR_INL_H_
#else
#define HSM_TAYLOR_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "hwy/highway.h"
#include "mixers/cpu/gemm-inl.h"
#include "mixers/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Feature rows that are made at a time, before they are multiplied while still in the first-level cache.
inline constexpr std::size_t kFeatureRows = 48;

HWY_INLINE std::size_t round_up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

// Returns the factor that gives a row of squared length `squares` the length `scale` (1 / max(|x|, eps)).
HWY_INLINE float row_scale(float squares, float scale) { return scale / std::max(std::sqrt(squares), 1e-12f); }

// Reads `tokens` rows of `dim` elements, `stride` elements apart, into the transposed tile (dim, tile_stride); rows are
// scaled to the length `scale` when `normalize`. Columns from `tokens` to `columns` become zero.
template <typename T>
void pack_transposed(const T* from, std::size_t stride, std::size_t tokens, std::size_t columns, std::size_t dim,
                     bool normalize, float scale, float* row, float* tile, std::size_t tile_stride) {
  for (std::size_t t = 0; t < tokens; ++t) {
    to_floats(from + t * stride, dim, row);
    float factor = 1.0f;
    if (normalize) {
      float squares = 0;
      for (std::size_t i = 0; i < dim; ++i) squares += row[i] * row[i];
      factor = row_scale(squares, scale);
    }
    for (std::size_t i = 0; i < dim; ++i) tile[i * tile_stride + t] = row[i] * factor;
  }
  for (std::size_t i = 0; i < dim; ++i) {
    std::fill(tile + i * tile_stride + tokens, tile + i * tile_stride + columns, 0.0f);
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

// Two rows of the transposed tile whose product is feature `feature` >= 1 (the linear ones are the row itself).
struct FeatureRow {
  const float* first;
  const float* second;  // null for a linear feature
};

HWY_INLINE FeatureRow feature_row(const float* tile, std::size_t tile_stride, std::size_t dim, std::size_t feature) {
  if (feature <= dim) return {tile + (feature - 1) * tile_stride, nullptr};
  const std::size_t packed = feature - 1 - dim;
  const std::size_t i = packed % dim;
  return {tile + i * tile_stride, tile + (i + packed / dim) % dim * tile_stride};
}

// Writes feature row `feature` of `columns` tokens (a multiple of the vector length) and calls visit(tag, offset,
// vector).
template <typename Visit>
HWY_INLINE void make_feature(const FeatureRow& rows, std::size_t columns, float* to, Visit visit) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  for (std::size_t t = 0; t < columns; t += lanes) {
    FloatVec value = hn::LoadU(tag, rows.first + t);
    if (rows.second != nullptr) value = hn::Mul(value, hn::LoadU(tag, rows.second + t));
    hn::StoreU(value, tag, to + t);
    visit(tag, t, value);
  }
}

// Adds a tile of keys to the sums: sums (F,columns) += phi(keys) values, norm (F) += row sums of phi(keys), for the
// feature rows from 1 on; row 0 (the constant) is the caller's. `scratch` holds kFeatureRows rows of `stride` floats.
inline void accumulate_features(const float* keys, std::size_t stride, std::size_t tokens, std::size_t dim,
                                const float* values, std::size_t columns, std::size_t features, float* scratch,
                                float* sums, float* norm) {
  const FloatTag tag;
  const std::size_t padded = round_up(tokens, hn::Lanes(tag));
  for (std::size_t start = 1; start < features; start += kFeatureRows) {
    const std::size_t rows = std::min(kFeatureRows, features - start);
    for (std::size_t r = 0; r < rows; ++r) {
      FloatVec total = hn::Zero(tag);
      make_feature(feature_row(keys, stride, dim, start + r), padded, scratch + r * stride,
                   [&](FloatTag, std::size_t, FloatVec value) { total = hn::Add(total, value); });
      norm[start + r] += hn::ReduceSum(tag, total);
    }
    gemm(RowMajor{scratch, stride}, rows, values, columns, columns, tokens, sums + start * columns, columns, true);
  }
}

// Applies weighted sums to a tile of queries: y (tokens,columns) += phi(queries)^T sums and
// den (tokens) += phi(queries)^T norm, for the feature rows from 1 on.
inline void apply_features(const float* queries, std::size_t stride, std::size_t tokens, std::size_t dim,
                           const float* sums, const float* norm, std::size_t columns, std::size_t features,
                           float* scratch, float* y, float* den) {
  const FloatTag tag;
  const std::size_t padded = round_up(tokens, hn::Lanes(tag));
  for (std::size_t start = 1; start < features; start += kFeatureRows) {
    const std::size_t rows = std::min(kFeatureRows, features - start);
    for (std::size_t r = 0; r < rows; ++r) {
      const FloatVec weight = hn::Set(tag, norm[start + r]);
      make_feature(feature_row(queries, stride, dim, start + r), padded, scratch + r * stride,
                   [&](FloatTag, std::size_t t, FloatVec value) {
                     hn::StoreU(hn::MulAdd(weight, value, hn::LoadU(tag, den + t)), tag, den + t);
                   });
    }
    gemm(ColumnMajor{scratch, stride}, tokens, sums + start * columns, columns, columns, rows, y, columns, true);
  }
}

// Turns scores t (tokens,stride) into weights 1 + t + t²/2 for the first `keys` columns of each row, zero for the
// others up to `padded`, and adds each row's sum to den.
inline void taylor_weights(float* scores, std::size_t stride, std::size_t tokens, std::size_t keys, std::size_t padded,
                           float* den) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const FloatVec one = hn::Set(tag, 1.0f);
  const FloatVec half = hn::Set(tag, 0.5f);
  for (std::size_t n = 0; n < tokens; ++n) {
    float* row = scores + n * stride;
    FloatVec total = hn::Zero(tag);
    for (std::size_t m = 0; m < padded; m += lanes) {
      const FloatVec t = hn::LoadU(tag, row + m);
      FloatVec weight = hn::MulAdd(hn::MulAdd(half, t, one), t, one);
      if (m + lanes > keys) weight = hn::IfThenElseZero(hn::FirstN(tag, keys > m ? keys - m : 0), weight);
      hn::StoreU(weight, tag, row + m);
      total = hn::Add(total, weight);
    }
    den[n] += hn::ReduceSum(tag, total);
  }
}

// Divides y (tokens,columns) by den, multiplies it by `scale` and writes rows of `dim` elements, `stride` apart.
template <typename T>
void write_rows(float* y, std::size_t columns, const float* den, std::size_t tokens, std::size_t dim, float scale,
                T* to, std::size_t stride) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  for (std::size_t n = 0; n < tokens; ++n) {
    float* row = y + n * columns;
    const FloatVec factor = hn::Set(tag, scale / den[n]);
    for (std::size_t i = 0; i < columns; i += lanes) hn::StoreU(hn::Mul(factor, hn::LoadU(tag, row + i)), tag, row + i);
    from_floats(row, dim, to + n * stride);
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_TAYLOR_INL_H_
