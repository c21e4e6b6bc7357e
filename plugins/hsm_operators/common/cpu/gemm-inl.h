// Small matrix products on float tiles that are in cache: C (M,N) += A (M,K) B (K,N).
//
// B and C are row-major with N a multiple of the vector length (the caller pads its tiles). One register block of A's
// rows by N columns stays in registers over the whole of K; every element of A is broadcast, every row of B is read as
// vectors.
#if defined(HSM_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_GEMM_INL_H_
#undef HSM_GEMM_INL_H_
#else
#define HSM_GEMM_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Accumulators that leave room for B's row and a broadcast: 24 of 32 registers, or 12 of 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
inline constexpr std::size_t kAccumulators = 24;
#else
inline constexpr std::size_t kAccumulators = 12;
#endif
inline constexpr std::size_t kMaxColumnVectors = 4;

// A row-major: element (m,k) at rows[m][k].
struct RowPointers {
  const float* const* rows;
  HWY_INLINE float at(std::size_t m, std::size_t k) const { return rows[m][k]; }
  HWY_INLINE RowPointers from(std::size_t m) const { return {rows + m}; }
};

// A row-major in one buffer: element (m,k) at data[m*stride + k].
struct RowMajor {
  const float* data;
  std::size_t stride;
  HWY_INLINE float at(std::size_t m, std::size_t k) const { return data[m * stride + k]; }
  HWY_INLINE RowMajor from(std::size_t m) const { return {data + m * stride, stride}; }
};

// A transposed: element (m,k) at data[k*stride + m].
struct ColumnMajor {
  const float* data;
  std::size_t stride;
  HWY_INLINE float at(std::size_t m, std::size_t k) const { return data[k * stride + m]; }
  HWY_INLINE ColumnMajor from(std::size_t m) const { return {data + m, stride}; }
};

// C row-major in one buffer, overwritten or added to. Sums are added last: sums of many tiles lose fewer digits than if
// each product were added to all that came before.
struct Product {
  float* data;
  std::size_t stride;
  bool accumulate;

  HWY_INLINE void put(std::size_t m, std::size_t column, FloatVec sum) const {
    const FloatTag tag;
    float* to = data + m * stride + column;
    hn::StoreU(accumulate ? hn::Add(sum, hn::LoadU(tag, to)) : sum, tag, to);
  }
  HWY_INLINE Product from(std::size_t m, std::size_t column) const {
    return {data + m * stride + column, stride, accumulate};
  }
};

// Row m of C times gates[m] is added to rows[m], from `first` on.
struct GatedRows {
  float* const* rows;
  const float* gates;
  std::size_t first;

  HWY_INLINE void put(std::size_t m, std::size_t column, FloatVec sum) const {
    const FloatTag tag;
    float* to = rows[m] + first + column;
    hn::StoreU(hn::MulAdd(hn::Set(tag, gates[m]), sum, hn::LoadU(tag, to)), tag, to);
  }
  HWY_INLINE GatedRows from(std::size_t m, std::size_t column) const { return {rows + m, gates + m, first + column}; }
};

// kRows rows and kVectors vectors of columns of A B, in registers, handed to C.
template <std::size_t kRows, std::size_t kVectors, typename A, typename C>
HWY_NOINLINE void gemm_block(A a, const float* HWY_RESTRICT b, std::size_t b_stride, std::size_t depth, C c) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  FloatVec sum[kRows][kVectors];
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::Zero(tag);
  }
  for (std::size_t k = 0; k < depth; ++k) {
    FloatVec row[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) row[v] = hn::LoadU(tag, b + k * b_stride + v * lanes);
    for (std::size_t m = 0; m < kRows; ++m) {
      const FloatVec factor = hn::Set(tag, a.at(m, k));
      for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::MulAdd(factor, row[v], sum[m][v]);
    }
  }
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) c.put(m, v * lanes, sum[m][v]);
  }
}

// Calls gemm_block with `rows` <= kRows as a template argument.
template <std::size_t kRows, std::size_t kVectors, typename A, typename C>
void gemm_rows(std::size_t rows, A a, const float* b, std::size_t b_stride, std::size_t depth, C c) {
  if (rows == kRows) return gemm_block<kRows, kVectors>(a, b, b_stride, depth, c);
  if constexpr (kRows > 1) gemm_rows<kRows - 1, kVectors>(rows, a, b, b_stride, depth, c);
}

// All rows of one panel of kVectors vectors of columns, in blocks of nearly equal size: a small block at the end would
// not keep the multipliers busy.
template <std::size_t kRows, std::size_t kVectors, typename A, typename C>
void gemm_panel(A a, std::size_t rows, const float* b, std::size_t b_stride, std::size_t depth, C c) {
  const std::size_t blocks = (rows + kRows - 1) / kRows;
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::size_t begin = rows * block / blocks;
    const std::size_t end = rows * (block + 1) / blocks;
    gemm_rows<kRows, kVectors>(end - begin, a.from(begin), b, b_stride, depth, c.from(begin, 0));
  }
}

// C (rows,columns) = A B, as C has it; `columns` is a multiple of the vector length.
template <typename A, typename C>
void gemm(A a, std::size_t rows, const float* b, std::size_t b_stride, std::size_t columns, std::size_t depth, C c) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  for (std::size_t n = 0; n < columns;) {
    const std::size_t vectors = std::min((columns - n) / lanes, kMaxColumnVectors);
    switch (vectors) {
      case 1:
        gemm_panel<kAccumulators / 2, 1>(a, rows, b + n, b_stride, depth, c.from(0, n));
        break;
      case 2:
        gemm_panel<kAccumulators / 2, 2>(a, rows, b + n, b_stride, depth, c.from(0, n));
        break;
      case 3:
        gemm_panel<kAccumulators / 3, 3>(a, rows, b + n, b_stride, depth, c.from(0, n));
        break;
      default:
        gemm_panel<kAccumulators / 4, 4>(a, rows, b + n, b_stride, depth, c.from(0, n));
        break;
    }
    n += vectors * lanes;
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_GEMM_INL_H_
