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
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Feature rows that are made at a time, before they are multiplied while still in the first-level cache.
inline constexpr std::size_t kFeatureRows = 48;

// Scales the columns of a tile (dim, columns) to the length `scale`: x * scale / max(|x|, eps).
inline void normalize_columns(float* tile, std::size_t stride, std::size_t columns, std::size_t dim, float scale) {
  const FloatTag tag;
  // The first argument of Max, so that NaN passes.
  const FloatVec least = hn::Set(tag, 1e-12f);
  for (std::size_t t = 0; t < columns; t += hn::Lanes(tag)) {
    FloatVec squares = hn::Zero(tag);
    for (std::size_t i = 0; i < dim; ++i) {
      const FloatVec x = hn::LoadU(tag, tile + i * stride + t);
      squares = hn::MulAdd(x, x, squares);
    }
    const FloatVec factor = hn::Div(hn::Set(tag, scale), hn::Max(least, hn::Sqrt(squares)));
    for (std::size_t i = 0; i < dim; ++i) {
      float* row = tile + i * stride + t;
      hn::StoreU(hn::Mul(hn::LoadU(tag, row), factor), tag, row);
    }
  }
}

// Reads `tokens` rows of `dim` elements, `stride` elements apart, into the transposed tile (dim, tile_stride), zero up
// to the next whole vector; rows are scaled to the length `scale` when `normalize`. `rows` holds kTransposed rows of
// `dim` floats.
template <typename T>
void pack_transposed(const T* from, std::size_t stride, std::size_t tokens, std::size_t dim, bool normalize,
                     float scale, float* rows, float* tile, std::size_t tile_stride) {
  const std::size_t columns = round_up(tokens, hn::Lanes(FloatTag()));
  for (std::size_t i = 0; i < dim; ++i) {
    std::fill(tile + i * tile_stride + tokens, tile + i * tile_stride + columns, 0.0f);
  }
  std::size_t t = 0;
  for (; t + kTransposed <= tokens; t += kTransposed) {
    if constexpr (std::is_same_v<T, float>) {
      transpose_rows(from + t * stride, stride, dim, tile + t, tile_stride);
    } else {
      for (std::size_t j = 0; j < kTransposed; ++j) to_floats(from + (t + j) * stride, dim, rows + j * dim);
      transpose_rows(rows, dim, dim, tile + t, tile_stride);
    }
  }
  for (; t < tokens; ++t) {
    to_floats(from + t * stride, dim, rows);
    for (std::size_t i = 0; i < dim; ++i) tile[i * tile_stride + t] = rows[i];
  }
  if (normalize) normalize_columns(tile, tile_stride, columns, dim, scale);
}

// Scales rows of `columns` floats (whole vectors), which follow each other, to the length `scale`: x * scale / max(|x|,
// eps).
inline void normalize_rows(float* rows, std::size_t tokens, std::size_t columns, float scale = 1.0f) {
  const FloatTag tag;
  for (std::size_t t = 0; t < tokens; ++t) {
    float* row = rows + t * columns;
    FloatVec squares = hn::Zero(tag);
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      const FloatVec x = hn::LoadU(tag, row + i);
      squares = hn::MulAdd(x, x, squares);
    }
    const float length = std::sqrt(hn::ReduceSum(tag, squares));
    const FloatVec factor = hn::Set(tag, scale / (length < 1e-12f ? 1e-12f : length));  // NaN passes
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      hn::StoreU(hn::Mul(hn::LoadU(tag, row + i), factor), tag, row + i);
    }
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

// Returns one vector of a feature row, at token `t`.
HWY_INLINE FloatVec feature_at(const FeatureRow& rows, std::size_t t) {
  const FloatTag tag;
  const FloatVec value = hn::LoadU(tag, rows.first + t);
  return rows.second == nullptr ? value : hn::Mul(value, hn::LoadU(tag, rows.second + t));
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
      const FeatureRow row = feature_row(keys, stride, dim, start + r);
      FloatVec total = hn::Zero(tag);
      for (std::size_t t = 0; t < padded; t += hn::Lanes(tag)) {
        const FloatVec value = feature_at(row, t);
        hn::StoreU(value, tag, scratch + r * stride + t);
        total = hn::Add(total, value);
      }
      norm[start + r] += hn::ReduceSum(tag, total);
    }
    gemm(RowMajor{scratch, stride}, rows, values, columns, columns, tokens,
         Product{sums + start * columns, columns, true});
  }
}

// Writes feature rows for kVectors vectors of tokens from `t` on, and adds their sum, weighted with norm, to den.
template <std::size_t kVectors>
HWY_INLINE void weigh_features(const FeatureRow* row, std::size_t rows, const float* norm, std::size_t t, float* to,
                               std::size_t stride, float* den) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  FloatVec sum[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) sum[v] = hn::LoadU(tag, den + v * lanes);
  for (std::size_t r = 0; r < rows; ++r) {
    const FloatVec weight = hn::Set(tag, norm[r]);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const FloatVec value = feature_at(row[r], t + v * lanes);
      hn::StoreU(value, tag, to + r * stride + v * lanes);
      sum[v] = hn::MulAdd(weight, value, sum[v]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[v], tag, den + v * lanes);
}

// Applies weighted sums to a tile of queries: y (tokens,columns) += phi(queries)^T sums and
// den (tokens) += phi(queries)^T norm, for the feature rows from 1 on.
inline void apply_features(const float* queries, std::size_t stride, std::size_t tokens, std::size_t dim,
                           const float* sums, const float* norm, std::size_t columns, std::size_t features,
                           float* scratch, float* y, float* den) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t padded = round_up(tokens, lanes);
  for (std::size_t start = 1; start < features; start += kFeatureRows) {
    const std::size_t rows = std::min(kFeatureRows, features - start);
    FeatureRow row[kFeatureRows];
    for (std::size_t r = 0; r < rows; ++r) row[r] = feature_row(queries, stride, dim, start + r);
    std::size_t t = 0;
    for (; t + 4 * lanes <= padded; t += 4 * lanes) {
      weigh_features<4>(row, rows, norm + start, t, scratch + t, stride, den + t);
    }
    for (; t < padded; t += lanes) weigh_features<1>(row, rows, norm + start, t, scratch + t, stride, den + t);
    gemm(ColumnMajor{scratch, stride}, tokens, sums + start * columns, columns, columns, rows,
         Product{y, columns, true});
  }
}

// Adds the constant feature's sum (columns) to each row of y (tokens,columns), and its norm to den. It is the largest
// term: added last, it does not swallow the rounding of the many small ones.
inline void add_constant(const float* sum, float norm, std::size_t tokens, std::size_t columns, float* y, float* den) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  for (std::size_t n = 0; n < tokens; ++n) {
    float* row = y + n * columns;
    for (std::size_t i = 0; i < columns; i += lanes) {
      hn::StoreU(hn::Add(hn::LoadU(tag, row + i), hn::LoadU(tag, sum + i)), tag, row + i);
    }
    den[n] += norm;
  }
}

// Turns scores t (keys,stride) into weights 1 + t + t²/2, for `columns` queries (whole vectors), and adds each query's
// sum to den. When kCausal, keys after a query get the weight 0.
template <bool kCausal>
void taylor_weights(float* scores, std::size_t stride, std::size_t keys, std::size_t columns, float* den) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const FloatVec one = hn::Set(tag, 1.0f);
  const FloatVec half = hn::Set(tag, 0.5f);
  for (std::size_t n = 0; n < columns; n += lanes) {
    FloatVec total = hn::Zero(tag);
    for (std::size_t m = 0; m < keys; ++m) {
      float* score = scores + m * stride + n;
      const FloatVec t = hn::LoadU(tag, score);
      FloatVec weight = hn::MulAdd(hn::MulAdd(half, t, one), t, one);
      if (kCausal && m > n) weight = hn::IfThenZeroElse(hn::FirstN(tag, std::min(m - n, lanes)), weight);
      hn::StoreU(weight, tag, score);
      total = hn::Add(total, weight);
    }
    hn::StoreU(hn::Add(hn::LoadU(tag, den + n), total), tag, den + n);
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
