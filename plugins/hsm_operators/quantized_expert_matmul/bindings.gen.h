// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/quantized_expert_matmul/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline QuantizedExpertMatMulArgs quantized_expert_matmul_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .inputs = call.shapes[0][2],
      .heads = call.shapes[1][2],
      .experts = call.shapes[1][3],
      .groups = call.shapes[2][2],
      .group_bytes = call.shapes[2][3],
      .outputs = call.shapes[2][4],
      .active = call.attributes[0].ints.front(),
      .per_byte = call.attributes[1].ints.front(),
      .type = call.type,
      .x = call.inputs[0],
      .logits = static_cast<const float*>(call.inputs[1]),
      .weight = static_cast<const std::uint8_t*>(call.inputs[2]),
      .scales = static_cast<const float*>(call.inputs[3]),
      .y = call.outputs[0],
  };
}

inline QuantizedExpertMatMulArgs quantized_expert_matmul_sum_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .inputs = call.shapes[0][3],
      .heads = call.shapes[0][2],
      .experts = call.shapes[1][3],
      .groups = call.shapes[2][2],
      .group_bytes = call.shapes[2][3],
      .outputs = call.shapes[2][4],
      .active = call.attributes[0].ints.front(),
      .per_byte = call.attributes[1].ints.front(),
      .type = call.type,
      .x = call.inputs[0],
      .logits = static_cast<const float*>(call.inputs[1]),
      .weight = static_cast<const std::uint8_t*>(call.inputs[2]),
      .scales = static_cast<const float*>(call.inputs[3]),
      .y = call.outputs[0],
  };
}

}  // namespace hsm
