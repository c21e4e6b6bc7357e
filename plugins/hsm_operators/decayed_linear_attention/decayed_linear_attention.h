// Linear attention whose state decays, and its delta rule (README.md has the formulas).
#pragma once

#include <cstdint>

#include "hsm_operators/common/types.h"

namespace hsm {

struct DecayedLinearAttentionArgs {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t heads = 0;
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;
  std::int64_t decay_dim = 0;  // key_dim or 1
  bool exclusive = false;
  DType type = DType::kFloat32;
  const void* q = nullptr;                // (B,T,H,K)
  const void* k = nullptr;                // (B,T,H,K)
  const void* v = nullptr;                // (B,T,H,V)
  const void* log_decay = nullptr;        // (B,T,H,G)
  const void* a = nullptr;                // (B,T,H,K), of the delta rule; null without it
  const void* b = nullptr;                // (B,T,H,K)
  const float* state = nullptr;           // (B,H,K,V)
  const std::int64_t* lengths = nullptr;  // (B) valid tokens of this call, 0..T
  void* y = nullptr;                      // (B,T,H,V)
  float* state_out = nullptr;             // (B,H,K,V); may be `state` itself
};

// Token by token, straight from the definition; the oracle of `decayed_linear_attention`.
void decayed_linear_attention_naive(const DecayedLinearAttentionArgs& args);

void decayed_linear_attention(const DecayedLinearAttentionArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
