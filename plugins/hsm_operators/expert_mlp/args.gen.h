// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// ExpertMLP: y = sum over the k experts e of largest logits of sigmoid(logit[e]) activation(x up[e]) down[e].
struct ExpertMlpArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // D: width of x.
  std::int64_t inputs = 0;
  // E: experts.
  std::int64_t experts = 0;
  // w: width of an expert.
  std::int64_t hidden = 0;
  // O: width of y.
  std::int64_t outputs = 0;
  // How many experts each token uses, 1 ... E.
  std::int64_t active = 1;
  // 0 is ReLU, 1 is GELU, 2 is GELU's approximation by tanh.
  std::int64_t activation = 0;
  // T.
  DType type = DType::kFloat32;
  // (B,T,D) Tokens.
  const void* x = nullptr;
  // (B,T,E) Routing logits.
  const float* logits = nullptr;
  // (E,D,w) First matrix of each expert.
  const void* up = nullptr;
  // (E,w,O) Second matrix of each expert.
  const void* down = nullptr;
  // (B,T,O) The result.
  void* y = nullptr;
};

// Straight from the definition, for tests.
void expert_mlp_naive(const ExpertMlpArgs& args);

void expert_mlp(const ExpertMlpArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
