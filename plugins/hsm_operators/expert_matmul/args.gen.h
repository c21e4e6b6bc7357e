// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// ExpertMatMul: y[h] = sum over the k experts e of head h of largest logits of sigmoid(logit[h,e]) x weight[h,e].
// ExpertMatMulSum: y = sum over heads h and their k experts e of largest logits of sigmoid(logit[h,e]) x[h]
// weight[h,e].
struct ExpertMatMulArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // ExpertMatMul: D: width. ExpertMatMulSum: f: head width.
  std::int64_t inputs = 0;
  // H: heads.
  std::int64_t heads = 0;
  // E: experts.
  std::int64_t experts = 0;
  // ExpertMatMul: f: head width. ExpertMatMulSum: D: width.
  std::int64_t outputs = 0;
  // How many experts each token uses in each head, 1 ... E.
  std::int64_t active = 1;
  // T.
  DType type = DType::kFloat32;
  // ExpertMatMul: (B,T,D) Tokens. ExpertMatMulSum: (B,T,H,f) Tokens by head.
  const void* x = nullptr;
  // (B,T,H,E) Routing logits of each head's experts.
  const float* logits = nullptr;
  // ExpertMatMul: (H,E,D,f) One matrix a head and expert. ExpertMatMulSum: (H,E,f,D) One matrix a head and expert.
  const void* weight = nullptr;
  // ExpertMatMul: (B,T,H,f) The result. ExpertMatMulSum: (B,T,D) The result.
  void* y = nullptr;
  // What `pack_constant` made of `weight`, or null: it is packed in every call.
  const float* packed = nullptr;
};

// Straight from the definition, for tests.
void expert_matmul_naive(const ExpertMatMulArgs& args);
void expert_matmul_sum_naive(const ExpertMatMulArgs& args);

void expert_matmul(const ExpertMatMulArgs& args, const ParallelFor& parallel_for);
void expert_matmul_sum(const ExpertMatMulArgs& args, const ParallelFor& parallel_for);

// Packs a constant `weight` once, in the order in which the CPU's kernels read it; only `type`, `weight` and the sizes
// of its shape are set, and the constant must stay as it is.
Packed pack_constant(const ExpertMatMulArgs& args);
// How many floats `pack_constant` makes.
std::size_t packed_count(const ExpertMatMulArgs& args);

}  // namespace hsm
