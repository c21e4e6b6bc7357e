// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// Attention: Softmax attention: y[b,t,h] = sum over the visible keys s of softmax(scale q[b,t,h] k[b,s,g]) v[b,s,g], g
// being the group of head h. Key s is visible to query t below the row's length, with causal from s = t on backwards,
// with a window where s > t - window.
// AttentionCached: Causal Attention of a sequence that arrives in pieces: the keys and values of all tokens of a row
// are in a cache, that of position p in slot p. New ones are written at `position`, and slots beyond them are not read.
// WindowAttentionCached: Causal Attention with a window, of a sequence that arrives in pieces: a ring holds the keys
// and values of the last R tokens of each row, that of position p in slot p mod R.
struct AttentionArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // H: heads.
  std::int64_t heads = 0;
  // d: head width.
  std::int64_t dim = 0;
  // S: keys. 0 in AttentionCached, WindowAttentionCached.
  std::int64_t keys = 0;
  // G: key and value heads.
  std::int64_t key_heads = 0;
  // e: value width.
  std::int64_t value_dim = 0;
  // C: slots of the cache. 0 in Attention, WindowAttentionCached.
  std::int64_t capacity = 0;
  // R: slots of the ring. 0 in Attention, AttentionCached.
  std::int64_t slots = 0;
  // 1: query t sees no key after t; 0: it may see all of them. False in AttentionCached, WindowAttentionCached.
  bool causal = false;
  // Attention: Query t sees no key before t - window + 1; 0: it may see all of them. WindowAttentionCached: Keys that a
  // query sees at most, its own included. 0 in AttentionCached.
  std::int64_t window = 0;
  // Factor on the products of queries and keys.
  float scale = 0;
  // T.
  DType type = DType::kFloat32;
  // (B,T,H,d) Queries.
  const void* q = nullptr;
  // AttentionCached, WindowAttentionCached: (B,T,G,d) Keys of the new tokens, one for each group of H / G query heads.
  // Attention: (B,S,G,d) Keys, one for each group of H / G query heads.
  const void* k = nullptr;
  // AttentionCached, WindowAttentionCached: (B,T,G,e) Values of the new tokens. Attention: (B,S,G,e) Values.
  const void* v = nullptr;
  // (B,C,G,d) Keys of the tokens before, that of position p in slot p. Null in Attention, WindowAttentionCached.
  const void* key_cache = nullptr;
  // (B,C,G,e) Their values. Null in Attention, WindowAttentionCached.
  const void* value_cache = nullptr;
  // (B) How many tokens of the row came before. Null in Attention.
  const std::int64_t* position = nullptr;
  // AttentionCached, WindowAttentionCached: (B) How many tokens of the row are valid, 0 ... T. Attention: (B) How many
  // keys of the row are valid, 0 ... S.
  const std::int64_t* lengths = nullptr;
  // (B,R,G,d) Keys of the last tokens, that of position p in slot p mod R. Null in Attention, AttentionCached.
  const void* key_ring = nullptr;
  // (B,R,G,e) Their values. Null in Attention, AttentionCached.
  const void* value_ring = nullptr;
  // (B,T,H,e) The result.
  void* y = nullptr;
  // (B,C,G,d) The keys with the row's valid tokens. May be `key_cache` itself. Null in Attention,
  // WindowAttentionCached.
  void* key_cache_out = nullptr;
  // (B,C,G,e) The values with the row's valid tokens. May be `value_cache` itself. Null in Attention,
  // WindowAttentionCached.
  void* value_cache_out = nullptr;
  // (B,R,G,d) The keys after the row's valid tokens. May be `key_ring` itself. Null in Attention, AttentionCached.
  void* key_ring_out = nullptr;
  // (B,R,G,e) The values after the row's valid tokens. May be `value_ring` itself. Null in Attention, AttentionCached.
  void* value_ring_out = nullptr;
};

// Straight from the definition, for tests.
void attention_naive(const AttentionArgs& args);

void attention(const AttentionArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
