// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/decayed_linear_attention/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline DecayedLinearAttentionArgs decayed_linear_attention_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .key_dim = call.shapes[0][3],
      .value_dim = call.shapes[2][3],
      .decay_dim = call.shapes[3][3],
      .exclusive = call.attributes[0].ints.front() != 0,
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .log_decay = call.inputs[3],
      .state = static_cast<const float*>(call.inputs[4]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[5]),
      .y = call.outputs[0],
      .state_out = static_cast<float*>(call.outputs[1]),
  };
}

inline DecayedLinearAttentionArgs decayed_delta_rule_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .key_dim = call.shapes[0][3],
      .value_dim = call.shapes[2][3],
      .decay_dim = call.shapes[3][3],
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .log_decay = call.inputs[3],
      .a = call.inputs[4],
      .b = call.inputs[5],
      .state = static_cast<const float*>(call.inputs[6]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[7]),
      .y = call.outputs[0],
      .state_out = static_cast<float*>(call.outputs[1]),
  };
}

}  // namespace hsm
