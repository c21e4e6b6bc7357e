// TokenShift and ShiftMix, with and without a ring: y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c].
//
// Hierarchical Shift Mixing (arXiv:2601.22852, our reading). Reads and writes each element once: 2·B·T·D elements
// moved, 3·B·T·D flops, so memory bandwidth is the bound.
#pragma once

#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

struct ShiftMixArgs {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t width = 0;
  std::span<const std::int64_t> shifts;  // one per equal group of channels, each >= 1
  DType type = DType::kFloat32;
  const void* x = nullptr;      // (B,T,D)
  const void* alpha = nullptr;  // (D); null for TokenShift, whose y is x[b,t-s(c),c]
  const void* beta = nullptr;   // (D)
  void* y = nullptr;            // (B,T,D)

  // The cached forms: null ring means that zeros stand before the first token.
  std::int64_t ring_rows = 0;              // R >= max shift
  const void* ring = nullptr;              // (B,R,D); the token at absolute position p is in slot p mod R
  const std::int64_t* position = nullptr;  // (B) tokens that came before this call
  const std::int64_t* lengths = nullptr;   // (B) valid tokens of this call, 0..T
  void* ring_out = nullptr;                // (B,R,D); may be `ring` itself
};

// Straight from the definition; the oracle of `shift_mix`.
void shift_mix_naive(const ShiftMixArgs& args);

void shift_mix(const ShiftMixArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
