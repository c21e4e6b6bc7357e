// From a node's tensors and attributes to the arguments of its kernel: what every adapter does, on any device.
#pragma once

#include <span>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/expert_matmul/expert_matmul.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/shift_mix/shift_mix.h"
#include "hsm_operators/taylor_shift/taylor_shift.h"
#include "hsm_operators/common/types.h"

namespace hsm {

// One node and its tensors, in the order of the operator's table. Shapes and attributes were checked against it.
struct Call {
  DType type;  // T
  std::span<const opset::AttributeValue> attributes;
  std::span<const opset::Shape> shapes;  // of the inputs
  std::span<const void* const> inputs;
  std::span<void* const> outputs;
  const float* packed = nullptr;  // what pack_experts made of a constant weight, or null
};

// The arguments point into `call`'s attributes and tensors.
ShiftMixArgs token_shift_args(const Call& call);
ShiftMixArgs shift_mix_args(const Call& call);
ShiftMixArgs token_shift_cached_args(const Call& call);
ShiftMixArgs shift_mix_cached_args(const Call& call);
// TaylorShift and TaylorShiftMasked, which has the lengths as a fifth input.
TaylorShiftArgs taylor_shift_args(const Call& call);
CausalTaylorShiftArgs causal_taylor_shift_args(const Call& call);
// ExpertMatMul and ExpertMatMulSum.
ExpertMatMulArgs expert_matmul_args(const Call& call);

}  // namespace hsm
