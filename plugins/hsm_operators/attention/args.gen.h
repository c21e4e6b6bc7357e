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
// RelativeAttention: Attention with relative positions (Transformer-XL's, without its biases): the score of query t and
// key s is scale q[b,t,h] (k[b,s,g] + relative_keys[s-t+T-1,h]).
// RelativeAttentionCached: Causal RelativeAttention of a sequence that arrives in pieces, as AttentionCached. The keys
// of distances are in a cache too, that of distance p in slot p: with the token of position p comes the key of distance
// p.
// WindowRelativeAttentionCached: Causal RelativeAttention with a window, of a sequence that arrives in pieces, as
// WindowAttentionCached: the score of query t and a key j tokens before it is scale q[b,t,h] (k +
// relative_keys[window-1-j,h]).
struct AttentionArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // H: heads.
  std::int64_t heads = 0;
  // d: head width.
  std::int64_t dim = 0;
  // S: keys. 0 in AttentionCached, WindowAttentionCached, RelativeAttentionCached, WindowRelativeAttentionCached.
  std::int64_t keys = 0;
  // G: key and value heads.
  std::int64_t key_heads = 0;
  // e: value width.
  std::int64_t value_dim = 0;
  // P: keys of distances. 0 in Attention, AttentionCached, WindowAttentionCached, RelativeAttentionCached.
  std::int64_t distances = 0;
  // R: slots of the ring. 0 in Attention, AttentionCached, RelativeAttention, RelativeAttentionCached.
  std::int64_t slots = 0;
  // C: slots of the cache. 0 in Attention, WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  std::int64_t capacity = 0;
  // 1: query t sees no key after t; 0: it may see all of them. False in AttentionCached, WindowAttentionCached,
  // RelativeAttentionCached, WindowRelativeAttentionCached.
  bool causal = false;
  // Attention, RelativeAttention: Query t sees no key before t - window + 1; 0: it may see all of them.
  // WindowAttentionCached, WindowRelativeAttentionCached: Keys that a query sees at most, its own included. 0 in
  // AttentionCached, RelativeAttentionCached.
  std::int64_t window = 0;
  // Factor on the products of queries and keys.
  float scale = 0;
  // T.
  DType type = DType::kFloat32;
  // (B,T,H,d) Queries.
  const void* q = nullptr;
  // RelativeAttentionCached, WindowRelativeAttentionCached, AttentionCached, WindowAttentionCached: (B,T,G,d) Keys of
  // the new tokens, one for each group of H / G query heads. RelativeAttention, Attention: (B,S,G,d) Keys, one for each
  // group of H / G query heads.
  const void* k = nullptr;
  // RelativeAttentionCached, WindowRelativeAttentionCached, AttentionCached, WindowAttentionCached: (B,T,G,e) Values of
  // the new tokens. RelativeAttention, Attention: (B,S,G,e) Values.
  const void* v = nullptr;
  // (B,C,G,d) Keys of the tokens before, that of position p in slot p. Null in Attention, WindowAttentionCached,
  // RelativeAttention, WindowRelativeAttentionCached.
  const void* key_cache = nullptr;
  // (B,C,G,e) Their values. Null in Attention, WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  const void* value_cache = nullptr;
  // (B) How many tokens of the row came before. Null in Attention, RelativeAttention.
  const std::int64_t* position = nullptr;
  // RelativeAttentionCached, WindowRelativeAttentionCached, AttentionCached, WindowAttentionCached: (B) How many tokens
  // of the row are valid, 0 ... T. RelativeAttention, Attention: (B) How many keys of the row are valid, 0 ... S.
  const std::int64_t* lengths = nullptr;
  // (B,T,H,d) Keys of the distances position, position + 1, ... Null in Attention, AttentionCached,
  // WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  const void* relative = nullptr;
  // (B,C,H,d) Keys of the distances before, that of distance p in slot p. Null in Attention, AttentionCached,
  // WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  const void* relative_cache = nullptr;
  // (B,R,G,d) Keys of the last tokens, that of position p in slot p mod R. Null in Attention, AttentionCached,
  // RelativeAttention, RelativeAttentionCached.
  const void* key_ring = nullptr;
  // (B,R,G,e) Their values. Null in Attention, AttentionCached, RelativeAttention, RelativeAttentionCached.
  const void* value_ring = nullptr;
  // WindowRelativeAttentionCached: (P,H,d) Keys of distances: row window - 1 - j is that of the key j before.
  // RelativeAttention: (P,H,d) Keys of distances: row T - 1 + j is that of the key j behind. Null in Attention,
  // AttentionCached, WindowAttentionCached, RelativeAttentionCached.
  const void* relative_keys = nullptr;
  // (B,T,H,e) The result.
  void* y = nullptr;
  // (B,C,G,d) The keys with the row's valid tokens. May be `key_cache` itself. Null in Attention,
  // WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  void* key_cache_out = nullptr;
  // (B,C,G,e) The values with the row's valid tokens. May be `value_cache` itself. Null in Attention,
  // WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  void* value_cache_out = nullptr;
  // (B,C,H,d) The keys of distances with the row's new ones. May be `relative_cache` itself. Null in Attention,
  // AttentionCached, WindowAttentionCached, RelativeAttention, WindowRelativeAttentionCached.
  void* relative_cache_out = nullptr;
  // (B,R,G,d) The keys after the row's valid tokens. May be `key_ring` itself. Null in Attention, AttentionCached,
  // RelativeAttention, RelativeAttentionCached.
  void* key_ring_out = nullptr;
  // (B,R,G,e) The values after the row's valid tokens. May be `value_ring` itself. Null in Attention, AttentionCached,
  // RelativeAttention, RelativeAttentionCached.
  void* value_ring_out = nullptr;
};

// Straight from the definition, for tests.
void attention_naive(const AttentionArgs& args);

void attention(const AttentionArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
