// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include "hsm_operators/common/call.h"
#include "hsm_operators/expert_matmul/args.gen.h"

namespace hsm {

// The arguments point into the calls' attributes and tensors.

inline ExpertMatMulArgs expert_matmul_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .inputs = call.shapes[0][2],
      .heads = call.shapes[1][2],
      .experts = call.shapes[1][3],
      .outputs = call.shapes[2][3],
      .active = call.attributes[0].ints.front(),
      .type = call.type,
      .x = call.inputs[0],
      .logits = static_cast<const float*>(call.inputs[1]),
      .weight = call.inputs[2],
      .y = call.outputs[0],
      .packed = call.packed,
  };
}

inline ExpertMatMulArgs expert_matmul_constant(DType type, const opset::Shape& shape, const void* data) {
  return {
      .inputs = shape[2],
      .heads = shape[0],
      .experts = shape[1],
      .outputs = shape[3],
      .type = type,
      .weight = data,
  };
}

inline ExpertMatMulArgs expert_matmul_sum_args(const Call& call) {
  return {
      .batch = call.shapes[0][0],
      .length = call.shapes[0][1],
      .inputs = call.shapes[0][3],
      .heads = call.shapes[0][2],
      .experts = call.shapes[1][3],
      .outputs = call.shapes[2][3],
      .active = call.attributes[0].ints.front(),
      .type = call.type,
      .x = call.inputs[0],
      .logits = static_cast<const float*>(call.inputs[1]),
      .weight = call.inputs[2],
      .y = call.outputs[0],
      .packed = call.packed,
  };
}

inline ExpertMatMulArgs expert_matmul_sum_constant(DType type, const opset::Shape& shape, const void* data) {
  return {
      .inputs = shape[2],
      .heads = shape[0],
      .experts = shape[1],
      .outputs = shape[3],
      .type = type,
      .weight = data,
  };
}

}  // namespace hsm
