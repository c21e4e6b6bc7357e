// Causal TaylorShift with a carried state (our extension of arXiv:2403.02920): token t attends to tokens <= t.
//
// The state of one head is sum_m phi(k_m) v_m (F,e) and sum_m phi(k_m) (F), F = 1 + d + d(d+1)/2, both float32. Row 0
// of phi is 1, rows 1..d are k, and row 1 + d + delta·d + i is k_i k_((i+delta) mod d); on the query side the last
// group has the weight 1/2 for delta = 0 and 1 otherwise.
#pragma once

#include <cstdint>

#include "hsm_operators/causal_taylor_shift/args.gen.h"

namespace hsm {

// Returns F, the number of features of a head of width d.
constexpr std::int64_t taylor_features(std::int64_t d) { return 1 + d + d * (d + 1) / 2; }

}  // namespace hsm
