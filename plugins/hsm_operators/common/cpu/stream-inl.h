// Products of a few rows with a matrix that is read once, in place: memory bandwidth is the bound, so nothing is
// packed.
#if defined(HSM_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_STREAM_INL_H_
#undef HSM_STREAM_INL_H_
#else
#define HSM_STREAM_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Vectors of columns that are in registers at once: long runs of each matrix row, for the prefetcher.
template <std::size_t kRows>
inline constexpr std::size_t kStreamVectors = kRows == 1 ? 8 : kAccumulators / kRows;

// Columns of a matrix of floats whose rows are `stride` elements apart.
template <typename T>
struct StridedColumns {
  const T* data;
  std::size_t stride;
  HWY_INLINE StridedColumns from(std::size_t column) const { return {data + column, stride}; }
};

// C (kRows, kVectors vectors) = A B. The last vector starts at column `last`, which may be where another one still is:
// at the end of a row it overlaps its neighbour, and writes the same numbers there.
template <std::size_t kRows, std::size_t kVectors, typename T>
HWY_NOINLINE void stream_block(RowPointers a, StridedColumns<T> columns, std::size_t depth, std::ptrdiff_t last,
                               float* HWY_RESTRICT c, std::size_t c_stride) {
  const T* HWY_RESTRICT b = columns.data;
  const std::size_t b_stride = columns.stride;
  const FloatTag tag;
  const auto lanes = static_cast<std::ptrdiff_t>(hn::Lanes(tag));
  const auto column = [&](std::size_t v) { return v + 1 < kVectors ? static_cast<std::ptrdiff_t>(v) * lanes : last; };
  FloatVec sum[kRows][kVectors];
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::Zero(tag);
  }
  for (std::size_t k = 0; k < depth; ++k) {
    FloatVec row[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) row[v] = load_floats(tag, b + k * b_stride + column(v));
    for (std::size_t m = 0; m < kRows; ++m) {
      const FloatVec factor = hn::Set(tag, a.at(m, k));
      for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::MulAdd(factor, row[v], sum[m][v]);
    }
  }
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[m][v], tag, c + m * c_stride + column(v));
  }
}

// Calls stream_block with `vectors` <= kVectors as a template argument.
template <std::size_t kRows, std::size_t kVectors, typename Columns>
void stream_vectors(std::size_t vectors, RowPointers a, const Columns& b, std::size_t depth, std::ptrdiff_t last,
                    float* c, std::size_t c_stride) {
  if (vectors == kVectors) return stream_block<kRows, kVectors>(a, b, depth, last, c, c_stride);
  if constexpr (kVectors > 1) stream_vectors<kRows, kVectors - 1>(vectors, a, b, depth, last, c, c_stride);
}

template <std::size_t kRows, typename Columns>
void stream_columns(RowPointers a, const Columns& b, std::size_t columns, std::size_t depth, float* c,
                    std::size_t c_stride) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t vectors = (columns + lanes - 1) / lanes;
  const std::size_t parts = (vectors + kStreamVectors<kRows> - 1) / kStreamVectors<kRows>;
  for (std::size_t part = 0; part < parts; ++part) {
    const std::size_t begin = vectors * part / parts;
    const std::size_t end = vectors * (part + 1) / parts;
    const std::size_t last = std::min((end - 1) * lanes, columns - lanes);
    stream_vectors<kRows, kStreamVectors<kRows>>(
        end - begin, a, b.from(begin * lanes), depth,
        static_cast<std::ptrdiff_t>(last) - static_cast<std::ptrdiff_t>(begin * lanes), c + begin * lanes, c_stride);
  }
}

// C (rows,columns) = A B for a few rows; at least one vector of columns, of any number. `Columns` are those of B, in
// any form for which there is a `stream_block`.
template <typename Columns>
void stream(RowPointers a, std::size_t rows, const Columns& b, std::size_t columns, std::size_t depth, float* c,
            std::size_t c_stride) {
  std::size_t m = 0;
  for (; m + 4 <= rows; m += 4) stream_columns<4>(a.from(m), b, columns, depth, c + m * c_stride, c_stride);
  for (; m + 2 <= rows; m += 2) stream_columns<2>(a.from(m), b, columns, depth, c + m * c_stride, c_stride);
  if (m < rows) stream_columns<1>(a.from(m), b, columns, depth, c + m * c_stride, c_stride);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_STREAM_INL_H_
