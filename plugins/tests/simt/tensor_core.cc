#include "tensor_core.h"

#include <array>
#include <bit>
#include <cstring>

#include "hsm_operators/common/types.h"

namespace hsm::simt {
namespace {

constexpr unsigned kFull = 0xffffffffU;

// Every half as a float; conversion is most of the work otherwise.
const std::array<float, 65536>& halves() {
  static const auto table = [] {
    std::array<float, 65536> values;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(Half{static_cast<std::uint16_t>(i)});
    return values;
  }();
  return table;
}

struct HalfToFloat {
  const float* table = halves().data();
  float operator()(std::uint32_t bits) const { return table[bits]; }
};

struct BFloat16ToFloat {
  float operator()(std::uint32_t bits) const { return std::bit_cast<float>(bits << 16); }
};

struct Fragments {
  float d[4];
  std::uint32_t a[4];
  std::uint32_t b[2];
};

// Replaces d in each slot by d + a·b.
template <typename Convert>
void multiply(Slot (&slots)[kLanes], std::uint32_t /*mask*/) {
  const Convert convert;
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4;
    const unsigned t = lane % 4;
    Fragments own;
    std::memcpy(&own, slots[lane].bytes, sizeof own);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = g + i % 2 * 8;
      const unsigned column = 2 * t + i / 2 * 8;
      a[row][column] = convert(own.a[i] & 0xffffU);
      a[row][column + 1] = convert(own.a[i] >> 16);
      d[g + i / 2 * 8][2 * t + i % 2] = own.d[i];
    }
    for (unsigned i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = convert(own.b[i] & 0xffffU);
      b[2 * t + 8 * i + 1][g] = convert(own.b[i] >> 16);
    }
  }
  for (unsigned row = 0; row < 16; ++row) {
    for (unsigned k = 0; k < 16; ++k) {
      for (unsigned column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    float own[4];
    for (unsigned i = 0; i < 4; ++i) own[i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    std::memcpy(slots[lane].bytes, own, sizeof own);
  }
}

template <typename Convert>
void mma(const char* operation, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
         const Where& where) {
  Fragments own;
  std::memcpy(own.d, d, sizeof d);
  std::memcpy(own.a, a, sizeof a);
  std::memcpy(own.b, b, sizeof b);
  const Slot* slots = running->meet(operation, kFull, &own, sizeof own, multiply<Convert>, where);
  std::memcpy(d, slots[running->current->lane].bytes, sizeof d);
}

// Replaces the row addresses by the registers of each lane.
template <unsigned kMatrices, bool kTransposed>
void gather(Slot (&slots)[kLanes], std::uint32_t /*mask*/) {
  std::uint16_t elements[kMatrices][8][8];
  for (unsigned i = 0; i < 8 * kMatrices; ++i) {
    const void* row;
    std::memcpy(&row, slots[i].bytes, sizeof row);
    std::memcpy(elements[i / 8][i % 8], row, 16);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    std::uint32_t registers[kMatrices];
    for (unsigned m = 0; m < kMatrices; ++m) {
      const unsigned g = lane / 4;
      const unsigned t = 2 * (lane % 4);
      const std::uint32_t low = kTransposed ? elements[m][t][g] : elements[m][g][t];
      const std::uint32_t high = kTransposed ? elements[m][t + 1][g] : elements[m][g][t + 1];
      registers[m] = low | high << 16;
    }
    std::memcpy(slots[lane].bytes, registers, sizeof registers);
  }
}

template <unsigned kMatrices>
void load(std::uint32_t (&r)[kMatrices], const void* row, bool transposed, const Where& where) {
  const unsigned lane = running->current->lane;
  if (lane < 8 * kMatrices) {
    if (!running->is_shared(row, 16)) running->fail("ldmatrix", "reads outside of shared memory", where);
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) running->fail("ldmatrix", "a row not aligned to 16", where);
  }
  const Block::Combine combine = transposed ? gather<kMatrices, true> : gather<kMatrices, false>;
  const Slot* slots =
      running->meet(transposed ? "ldmatrix.trans" : "ldmatrix", kFull, &row, sizeof row, combine, where);
  std::memcpy(r, slots[lane].bytes, sizeof r);
}

}  // namespace

void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Where& where) {
  mma<HalfToFloat>("mma f16", d, a, b, where);
}

void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Where& where) {
  mma<BFloat16ToFloat>("mma bf16", d, a, b, where);
}

void ldmatrix(std::uint32_t (&r)[4], const void* row, bool transposed, const Where& where) {
  load<4>(r, row, transposed, where);
}

void ldmatrix(std::uint32_t (&r)[2], const void* row, bool transposed, const Where& where) {
  load<2>(r, row, transposed, where);
}

}  // namespace hsm::simt
