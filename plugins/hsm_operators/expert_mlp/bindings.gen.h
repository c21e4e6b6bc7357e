// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/expert_mlp/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline ExpertMlpArgs expert_mlp_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .inputs = call.shapes[0][2],
      .experts = call.shapes[1][2],
      .hidden = call.shapes[2][2],
      .outputs = call.shapes[3][2],
      .active = call.attributes[0].ints.front(),
      .activation = call.attributes[1].ints.front(),
      .type = call.type,
      .x = call.inputs[0],
      .logits = static_cast<const float*>(call.inputs[1]),
      .up = call.inputs[2],
      .down = call.inputs[3],
      .y = call.outputs[0],
  };
}

}  // namespace hsm
