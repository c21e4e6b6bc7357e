// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/taylor_shift/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline TaylorShiftArgs taylor_shift_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .value_dim = call.shapes[2][3],
      .normalize = call.attributes[0].ints.front() != 0,
      .output_norm = call.attributes[1].ints.front() != 0,
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .temperature = call.inputs[3],
      .y = call.outputs[0],
  };
}

inline TaylorShiftArgs taylor_shift_masked_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .heads = call.shapes[0][2],
      .dim = call.shapes[0][3],
      .value_dim = call.shapes[2][3],
      .normalize = call.attributes[0].ints.front() != 0,
      .output_norm = call.attributes[1].ints.front() != 0,
      .type = call.type,
      .q = call.inputs[0],
      .k = call.inputs[1],
      .v = call.inputs[2],
      .temperature = call.inputs[3],
      .lengths = static_cast<const std::int64_t*>(call.inputs[4]),
      .y = call.outputs[0],
  };
}

}  // namespace hsm
