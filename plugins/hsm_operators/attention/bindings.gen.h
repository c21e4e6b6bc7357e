// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/attention/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline AttentionArgs attention_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .keys = call.shapes[1][1],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .causal = call.attributes[0].ints.front() != 0,
      .window = call.attributes[1].ints.front(),
      .scale = call.attributes[2].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .lengths = static_cast<const std::int64_t*>(call.inputs[3]),
      .y = call.outputs[0],
  };
}

inline AttentionArgs attention_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .capacity = call.shapes[3][1],
      .scale = call.attributes[0].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .key_cache = call.inputs[3],
      .value_cache = call.inputs[4],
      .position = static_cast<const std::int64_t*>(call.inputs[5]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[6]),
      .y = call.outputs[0],
      .key_cache_out = call.outputs[1],
      .value_cache_out = call.outputs[2],
  };
}

inline AttentionArgs window_attention_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .slots = call.shapes[3][1],
      .window = call.attributes[0].ints.front(),
      .scale = call.attributes[1].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .position = static_cast<const std::int64_t*>(call.inputs[5]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[6]),
      .key_ring = call.inputs[3],
      .value_ring = call.inputs[4],
      .y = call.outputs[0],
      .key_ring_out = call.outputs[1],
      .value_ring_out = call.outputs[2],
  };
}

inline AttentionArgs relative_attention_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .keys = call.shapes[1][1],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .distances = call.shapes[4][0],
      .causal = call.attributes[0].ints.front() != 0,
      .window = call.attributes[1].ints.front(),
      .scale = call.attributes[2].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .lengths = static_cast<const std::int64_t*>(call.inputs[3]),
      .relative_keys = call.inputs[4],
      .y = call.outputs[0],
  };
}

inline AttentionArgs relative_attention_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .capacity = call.shapes[3][1],
      .scale = call.attributes[0].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .key_cache = call.inputs[3],
      .value_cache = call.inputs[4],
      .position = static_cast<const std::int64_t*>(call.inputs[5]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[6]),
      .relative = call.inputs[7],
      .relative_cache = call.inputs[8],
      .y = call.outputs[0],
      .key_cache_out = call.outputs[1],
      .value_cache_out = call.outputs[2],
      .relative_cache_out = call.outputs[3],
  };
}

inline AttentionArgs window_relative_attention_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .key_heads = call.shapes[1][2],
      .value_dim = call.shapes[2][3],
      .distances = call.shapes[7][0],
      .slots = call.shapes[3][1],
      .window = call.attributes[0].ints.front(),
      .scale = call.attributes[1].floats.front(),
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .position = static_cast<const std::int64_t*>(call.inputs[5]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[6]),
      .key_ring = call.inputs[3],
      .value_ring = call.inputs[4],
      .relative_keys = call.inputs[7],
      .y = call.outputs[0],
      .key_ring_out = call.outputs[1],
      .value_ring_out = call.outputs[2],
  };
}

}  // namespace hsm
