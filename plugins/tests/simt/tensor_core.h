// mma.sync and ldmatrix with the fragment layouts of the PTX ISA.
#pragma once

#include "block.h"

namespace hsm::simt {

// d += a·b: products are exact, sums are rounded to float32 one by one (hardware rounds no better).
void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                      const Where& where = Where::current());
void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       const Where& where = Where::current());

void ldmatrix(std::uint32_t (&r)[4], const void* row, bool transposed, const Where& where = Where::current());
void ldmatrix(std::uint32_t (&r)[2], const void* row, bool transposed, const Where& where = Where::current());

}  // namespace hsm::simt
