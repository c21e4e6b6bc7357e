// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// CausalTaylorShift: TaylorShift of each token over itself and the tokens before it, with the past as a state.
struct CausalTaylorShiftArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // H: heads.
  std::int64_t heads = 0;
  // d: head width.
  std::int64_t dim = 0;
  // e: value width.
  std::int64_t value_dim = 0;
  // F: features.
  std::int64_t features = 0;
  // 1: q and k are divided by their Euclidean norms; 0: they are used as given.
  bool normalize = false;
  // T.
  DType type = DType::kFloat32;
  // (B,T,H,d) Queries.
  const void* q = nullptr;
  // (B,T,H,d) Keys.
  const void* k = nullptr;
  // (B,T,H,e) Values.
  const void* v = nullptr;
  // (H) Factor on the normalised queries; ignored when normalize is 0.
  const void* temperature = nullptr;
  // (B,H,F,e) Sums of key features times values; zero at the start.
  const float* state = nullptr;
  // (B,H,F) Sums of key features; zero at the start.
  const float* norm = nullptr;
  // (B) How many tokens of the row are valid, 0 ... T.
  const std::int64_t* lengths = nullptr;
  // (B,T,H,e) The result.
  void* y = nullptr;
  // (B,H,F,e) The state after the row's valid tokens. May be `state` itself.
  float* state_out = nullptr;
  // (B,H,F) The sums of key features after the row's valid tokens. May be `norm` itself.
  float* norm_out = nullptr;
};

// Straight from the definition, for tests.
void causal_taylor_shift_naive(const CausalTaylorShiftArgs& args);

void causal_taylor_shift(const CausalTaylorShiftArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
