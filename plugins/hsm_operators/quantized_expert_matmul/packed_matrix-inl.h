// Matrices whose numbers have 8 or 4 bits, a scale for each block of rows and column: packed into panels of floats for
// many tokens, read where they are for a few.
#if defined(HSM_PACKED_MATRIX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_PACKED_MATRIX_INL_H_
#undef HSM_PACKED_MATRIX_INL_H_
#else
#define HSM_PACKED_MATRIX_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/stream-inl.h"
#include "hsm_operators/expert_matmul/expert_sum-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using ByteTag = hn::Rebind<std::uint8_t, FloatTag>;
using IntVec = hn::Vec<IntTag>;

// Columns of a matrix; `stride` is the length of its rows.
struct PackedColumns {
  const std::uint8_t* data;
  const float* scales;
  std::size_t stride;
  std::size_t group_bytes;
  std::size_t per_byte;
  HWY_INLINE PackedColumns from(std::size_t column) const {
    return {data + column, scales + column, stride, group_bytes, per_byte};
  }
};

// One expert's matrix (inputs,outputs).
struct PackedMatrix {
  PackedColumns all;
  std::size_t inputs;
  std::size_t outputs;

  PackedColumns columns(std::size_t first) const { return all.from(first); }
};

// All experts' matrices.
struct PackedMatrices {
  const std::uint8_t* weight;
  const float* scales;
  std::size_t groups;
  std::size_t group_bytes;
  std::size_t per_byte;
  std::int64_t experts;
  std::size_t inputs;
  std::size_t outputs;

  PackedMatrix matrix(std::int64_t index) const {
    const std::size_t first = static_cast<std::size_t>(index) * groups * outputs;
    return {{weight + first * group_bytes, scales + first, outputs, group_bytes, per_byte}, inputs, outputs};
  }
  // No copy in floats is kept: it would be four or eight times as large.
  const float* panels(std::int64_t /*index*/, std::size_t /*columns*/) const { return nullptr; }
};

// A vector of bytes as the numbers that they hold: all of a byte, or its lower or upper half.
template <std::size_t kPerByte, std::size_t kHalf>
HWY_INLINE FloatVec numbers_of(IntVec bytes) {
  const IntTag tag;
  if constexpr (kPerByte == 1) {
    return hn::ConvertTo(FloatTag(), hn::Sub(bytes, hn::Set(tag, 128)));
  } else {
    const IntVec half = kHalf == 0 ? hn::And(bytes, hn::Set(tag, 15)) : hn::ShiftRight<4>(bytes);
    return hn::ConvertTo(FloatTag(), hn::Sub(half, hn::Set(tag, 8)));
  }
}

HWY_INLINE IntVec load_bytes(const std::uint8_t* from) { return hn::PromoteTo(IntTag(), hn::LoadU(ByteTag(), from)); }

// One number: what a row's last columns are read as, where a vector would reach beyond them.
inline float number_at(const PackedColumns& b, std::size_t row, std::size_t column) {
  const std::size_t byte = row / b.per_byte;
  const int stored = b.data[byte * b.stride + column];
  const int whole = b.per_byte == 1 ? stored - 128 : ((row % 2 == 0 ? stored : stored >> 4) & 15) - 8;
  return static_cast<float>(whole) * b.scales[byte / b.group_bytes * b.stride + column];
}

// Converts one row of a panel to floats.
template <std::size_t kPerByte, std::size_t kHalf>
void pack_row(const std::uint8_t* from, const float* scales, std::size_t columns, float* to) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  for (std::size_t i = 0; i + lanes <= columns; i += lanes) {
    const FloatVec numbers = numbers_of<kPerByte, kHalf>(load_bytes(from + i));
    hn::StoreU(hn::Mul(numbers, hn::LoadU(tag, scales + i)), tag, to + i);
  }
}

// As the one for matrices of floats.
inline void pack_panel(const PackedMatrix& matrix, const ExpertPanels& panels, std::size_t panel, std::size_t begin,
                       std::size_t depth, float* to) {
  const PackedColumns b = matrix.columns(panels.begin(panel));
  const std::size_t width = panels.width(panel);
  const std::size_t columns = std::min(width, matrix.outputs - panels.begin(panel));
  const std::size_t whole = columns / panels.lanes * panels.lanes;
  for (std::size_t row = begin; row < begin + depth; ++row, to += width) {
    const std::size_t byte = row / b.per_byte;
    const std::uint8_t* from = b.data + byte * b.stride;
    const float* scales = b.scales + byte / b.group_bytes * b.stride;
    if (b.per_byte == 1) {
      pack_row<1, 0>(from, scales, columns, to);
    } else if (row % 2 == 0) {
      pack_row<2, 0>(from, scales, columns, to);
    } else {
      pack_row<2, 1>(from, scales, columns, to);
    }
    for (std::size_t i = whole; i < columns; ++i) to[i] = number_at(b, row, i);
    std::fill(to + columns, to + width, 0.0f);
  }
}

// Adds the products of one byte's rows, k and with two numbers in a byte k + 1, to the sums of a block.
template <std::size_t kPerByte, std::size_t kHalf, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void add_numbers(RowPointers a, std::size_t k, const IntVec (&bytes)[kVectors],
                            FloatVec (&sum)[kRows][kVectors]) {
  FloatVec numbers[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) numbers[v] = numbers_of<kPerByte, kHalf>(bytes[v]);
  for (std::size_t m = 0; m < kRows; ++m) {
    const FloatVec factor = hn::Set(FloatTag(), a.at(m, k));
    for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::MulAdd(factor, numbers[v], sum[m][v]);
  }
}

template <std::size_t kPerByte, std::size_t kRows, std::size_t kVectors>
HWY_NOINLINE void stream_packed(RowPointers a, const PackedColumns& b, std::size_t depth, std::ptrdiff_t last,
                                float* HWY_RESTRICT c, std::size_t c_stride) {
  const FloatTag tag;
  const auto lanes = static_cast<std::ptrdiff_t>(hn::Lanes(tag));
  const auto column = [&](std::size_t v) { return v + 1 < kVectors ? static_cast<std::ptrdiff_t>(v) * lanes : last; };
  FloatVec sum[kRows][kVectors];
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) sum[m][v] = hn::Zero(tag);
  }
  const std::uint8_t* row = b.data;
  const float* scales = b.scales;
  for (std::size_t k = 0; k < depth; scales += b.stride) {
    FloatVec part[kRows][kVectors];
    for (std::size_t m = 0; m < kRows; ++m) {
      for (std::size_t v = 0; v < kVectors; ++v) part[m][v] = hn::Zero(tag);
    }
    for (std::size_t r = 0; r < b.group_bytes; ++r, row += b.stride, k += kPerByte) {
      IntVec bytes[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) bytes[v] = load_bytes(row + column(v));
      add_numbers<kPerByte, 0>(a, k, bytes, part);
      if constexpr (kPerByte == 2) add_numbers<kPerByte, 1>(a, k + 1, bytes, part);
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      const FloatVec scale = hn::LoadU(tag, scales + column(v));
      for (std::size_t m = 0; m < kRows; ++m) sum[m][v] = hn::MulAdd(part[m][v], scale, sum[m][v]);
    }
  }
  for (std::size_t m = 0; m < kRows; ++m) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[m][v], tag, c + m * c_stride + column(v));
  }
}

// As the one for matrices of floats.
template <std::size_t kRows, std::size_t kVectors>
void stream_block(RowPointers a, const PackedColumns& b, std::size_t depth, std::ptrdiff_t last, float* c,
                  std::size_t c_stride) {
  if (b.per_byte == 1) return stream_packed<1, kRows, kVectors>(a, b, depth, last, c, c_stride);
  stream_packed<2, kRows, kVectors>(a, b, depth, last, c, c_stride);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_PACKED_MATRIX_INL_H_
