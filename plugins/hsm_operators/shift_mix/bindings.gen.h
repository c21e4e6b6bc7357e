// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/shift_mix/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline ShiftMixArgs token_shift_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .width = call.shapes[0][2],
      .shifts = call.attributes[0].ints,
      .type = call.type,
      .x = call.inputs[0],
      .y = call.outputs[0],
  };
}

inline ShiftMixArgs token_shift_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .width = call.shapes[0][2],
      .ring_rows = call.shapes[1][1],
      .shifts = call.attributes[0].ints,
      .type = call.type,
      .x = call.inputs[0],
      .ring = call.inputs[1],
      .position = static_cast<const std::int64_t*>(call.inputs[2]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[3]),
      .y = call.outputs[0],
      .ring_out = call.outputs[1],
  };
}

inline ShiftMixArgs shift_mix_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .width = call.shapes[0][2],
      .shifts = call.attributes[0].ints,
      .type = call.type,
      .x = call.inputs[0],
      .alpha = call.inputs[1],
      .beta = call.inputs[2],
      .y = call.outputs[0],
  };
}

inline ShiftMixArgs shift_mix_cached_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .width = call.shapes[0][2],
      .ring_rows = call.shapes[3][1],
      .shifts = call.attributes[0].ints,
      .type = call.type,
      .x = call.inputs[0],
      .alpha = call.inputs[1],
      .beta = call.inputs[2],
      .ring = call.inputs[3],
      .position = static_cast<const std::int64_t*>(call.inputs[4]),
      .lengths = static_cast<const std::int64_t*>(call.inputs[5]),
      .y = call.outputs[0],
      .ring_out = call.outputs[1],
  };
}

}  // namespace hsm
