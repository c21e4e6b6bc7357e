// One call of an operator's kernel: what every adapter hands over, on any device.
#pragma once

#include <span>

#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

namespace hsm {

// One node and its tensors, all in the order of the operator's table. Shapes and attributes were checked against it.
struct Call {
  DType type;  // T
  std::span<const opset::AttributeValue> attributes;
  std::span<const opset::Shape> shapes;  // of the inputs
  std::span<const void* const> inputs;
  std::span<void* const> outputs;
  const float* packed = nullptr;  // what the CPU's kernel made of the constant input, or null
};

}  // namespace hsm
