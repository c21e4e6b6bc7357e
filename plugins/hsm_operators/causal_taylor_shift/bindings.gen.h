// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/causal_taylor_shift/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline CausalTaylorShiftArgs causal_taylor_shift_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .value_dim = call.shapes[2][3],
      .features = call.shapes[4][2],
      .normalize = call.attributes[0].ints.front() != 0,
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .temperature = call.inputs[3],
      .state = static_cast<const float*>(call.inputs[4]),
      .norm = static_cast<const float*>(call.inputs[5]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[6]),
      .y = call.outputs[0],
      .state_out = static_cast<float*>(call.outputs[1]),
      .norm_out = static_cast<float*>(call.outputs[2]),
  };
}

}  // namespace hsm
