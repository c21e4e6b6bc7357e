// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// TokenShift: y[b,t,c] = x[b,t-s(c),c], zero outside of the T tokens; s(c) is the shift of c's channel group.
// TokenShiftCached: TokenShift of a sequence that arrives in pieces: a ring holds the last tokens of each row.
// ShiftMix: y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c], zero outside of the T tokens.
// ShiftMixCached: ShiftMix of a sequence that arrives in pieces: a ring holds the last tokens of each row.
struct ShiftMixArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // D: width.
  std::int64_t width = 0;
  // R: rows of the ring. 0 in TokenShift, ShiftMix.
  std::int64_t ring_rows = 0;
  // TokenShift, ShiftMix: The shift of each equal group of channels, first channels first; below 0 it reads ahead.
  // TokenShiftCached, ShiftMixCached: The shift, >= 0, of each equal group of channels, first channels first.
  std::span<const std::int64_t> shifts;
  // T.
  DType type = DType::kFloat32;
  // (B,T,D) Tokens.
  const void* x = nullptr;
  // (D) Weight of the token itself. Null in TokenShift, TokenShiftCached.
  const void* alpha = nullptr;
  // (D) Weight of the token s(c) steps back. Null in TokenShift, TokenShiftCached.
  const void* beta = nullptr;
  // (B,R,D) The tokens before x, each at slot = absolute position mod R; R >= max(shifts, 1). Null in TokenShift,
  // ShiftMix.
  const void* ring = nullptr;
  // (B) How many tokens of the row came before x. Null in TokenShift, ShiftMix.
  const std::int64_t* position = nullptr;
  // (B) How many tokens of the row are valid, 0 ... T. Null in TokenShift, ShiftMix.
  const std::int64_t* lengths = nullptr;
  // (B,T,D) The result.
  void* y = nullptr;
  // (B,R,D) The ring after the row's valid tokens. May be `ring` itself. Null in TokenShift, ShiftMix.
  void* ring_out = nullptr;
};

// Straight from the definition, for tests.
void shift_mix_naive(const ShiftMixArgs& args);

void shift_mix(const ShiftMixArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
