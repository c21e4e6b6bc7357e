// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// DecayedLinearAttention: Linear attention whose state decays: each token multiplies the rows of the state by
// exp(log_decay), adds its key times its value, and reads the state with its query.
// DecayedDeltaRule: DecayedLinearAttention by a delta rule: besides decaying and adding its key times its value, each
// token reads the state with a and adds b times what it read, so that it can take out what the state held for a key.
struct DecayedLinearAttentionArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // H: heads.
  std::int64_t heads = 0;
  // K: key width.
  std::int64_t key_dim = 0;
  // V: value width.
  std::int64_t value_dim = 0;
  // G: decays of a head.
  std::int64_t decay_dim = 0;
  // 0: a token reads the state with itself in it; 1: the state before it. False in DecayedDeltaRule.
  bool exclusive = false;
  // T.
  DType type = DType::kFloat32;
  // (B,T,H,K) Queries.
  const void* q = nullptr;
  // (B,T,H,K) Keys.
  const void* k = nullptr;
  // (B,T,H,V) Values.
  const void* v = nullptr;
  // (B,T,H,G) Logarithms of the decays, at most 0: one for each row of the state (G = K) or one for the head (G = 1).
  const void* log_decay = nullptr;
  // (B,T,H,K) What reads the state before the token and its decay. Null in DecayedLinearAttention.
  const void* a = nullptr;
  // (B,T,H,K) Key under which what was read is added. Null in DecayedLinearAttention.
  const void* b = nullptr;
  // (B,H,K,V) Sums of keys times values; zero at the start.
  const float* state = nullptr;
  // (B) How many tokens of the row are valid, 0 ... T.
  const std::int64_t* lengths = nullptr;
  // (B,T,H,V) The result.
  void* y = nullptr;
  // (B,H,K,V) The state after the row's valid tokens. May be `state` itself.
  float* state_out = nullptr;
};

// Straight from the definition, for tests.
void decayed_linear_attention_naive(const DecayedLinearAttentionArgs& args);
void decayed_delta_rule_naive(const DecayedLinearAttentionArgs& args);

void decayed_linear_attention(const DecayedLinearAttentionArgs& args, const ParallelFor& parallel_for);
void decayed_delta_rule(const DecayedLinearAttentionArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
