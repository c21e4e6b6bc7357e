// TaylorShift attention (arXiv:2403.02920): y_n = sum_m p(q_n·k_m) v_m / sum_m p(q_n·k_m), p(t) = 1 + t + t²/2.
//
// Direct form: 4·B·H·N²·d flops. Efficient form on the d(d+1)/2 products of the symmetric square: about
// 4·B·H·N·(1 + d + d(d+1)/2)·(d+1) flops.
#pragma once

#include <cstdint>

#include "hsm_operators/common/types.h"

namespace hsm {

enum class TaylorForm : std::uint8_t { kAuto, kDirect, kEfficient };

struct TaylorShiftArgs {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;
  DType type = DType::kFloat32;
  const void* q = nullptr;                // (B,T,H,d)
  const void* k = nullptr;                // (B,T,H,d)
  const void* v = nullptr;                // (B,T,H,d)
  const void* temperature = nullptr;      // (H), read only when `normalize`
  const std::int64_t* lengths = nullptr;  // (B) valid keys >= 1, or null: all
  bool normalize = true;                  // q := tau q/|q|, k := k/|k|
  bool output_norm = false;               // y *= sqrt(valid keys / d)
  void* y = nullptr;                      // (B,T,H,d)
};

// Direct form, straight from the definition; the oracle of `taylor_shift`.
void taylor_shift_naive(const TaylorShiftArgs& args);

void taylor_shift(const TaylorShiftArgs& args, const ParallelFor& parallel_for, TaylorForm form = TaylorForm::kAuto);

}  // namespace hsm
