// Causal TaylorShift with a carried state (our extension of arXiv:2403.02920): token t attends to tokens <= t.
//
// The state of one head is sum_m phi(k_m) v_m (F,d) and sum_m phi(k_m) (F), F = 1 + d + d(d+1)/2, both float32. Row 0
// of phi is 1, rows 1..d are k, and row 1 + d + delta·d + i is k_i k_((i+delta) mod d); on the query side the last
// group has the weight 1/2 for delta = 0 and 1 otherwise.
#pragma once

#include <cstdint>

#include "hsm_operators/common/types.h"

namespace hsm {

struct CausalTaylorShiftArgs {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;
  DType type = DType::kFloat32;
  const void* q = nullptr;                // (B,T,H,d)
  const void* k = nullptr;                // (B,T,H,d)
  const void* v = nullptr;                // (B,T,H,d)
  const void* temperature = nullptr;      // (H), read only when `normalize`
  const float* state = nullptr;           // (B,H,F,d)
  const float* norm = nullptr;            // (B,H,F)
  const std::int64_t* lengths = nullptr;  // (B) valid tokens of this call, 0..T
  bool normalize = true;
  void* y = nullptr;           // (B,T,H,d)
  float* state_out = nullptr;  // (B,H,F,d); may be `state` itself
  float* norm_out = nullptr;   // (B,H,F); may be `norm` itself
};

// Returns F, the number of features of a head of width d.
constexpr std::int64_t taylor_features(std::int64_t d) { return 1 + d + d * (d + 1) / 2; }

// Token by token, straight from the definition; the oracle of `causal_taylor_shift`.
void causal_taylor_shift_naive(const CausalTaylorShiftArgs& args);

void causal_taylor_shift(const CausalTaylorShiftArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
