// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// TaylorShift: Attention with 1 + x + x^2/2 in place of softmax's exponential, over all tokens of the row.
// TaylorShiftMasked: TaylorShift over the first `lengths` tokens of each row; what stands after them is never read.
struct TaylorShiftArgs {
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
  // 1: q and k are divided by their Euclidean norms; 0: they are used as given.
  bool normalize = false;
  // 1: the result is multiplied by sqrt(N / d), N = valid tokens; 0: not.
  bool output_norm = false;
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
  // (B) How many tokens of the row are valid, 1 ... T. Null in TaylorShift.
  const std::int64_t* lengths = nullptr;
  // (B,T,H,e) The result.
  void* y = nullptr;
};

// Straight from the definition, for tests.
void taylor_shift_naive(const TaylorShiftArgs& args);

void taylor_shift(const TaylorShiftArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
