// TaylorShift attention (arXiv:2403.02920): y_n = sum_m p(q_n·k_m) v_m / sum_m p(q_n·k_m), p(t) = 1 + t + t²/2.
//
// Direct form: 2·B·H·N²·(d + e) flops. Efficient form on the d(d+1)/2 products of the symmetric square: about
// 4·B·H·N·(1 + d + d(d+1)/2)·(e+1) flops.
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/args.gen.h"

namespace hsm {

enum class TaylorForm : std::uint8_t { kAuto, kDirect, kEfficient };

// The form that `taylor_shift` chooses is kAuto's.
void taylor_shift(const TaylorShiftArgs& args, const ParallelFor& parallel_for, TaylorForm form);

}  // namespace hsm
