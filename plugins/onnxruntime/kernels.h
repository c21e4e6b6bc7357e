// Binds the operator table to the CPU kernels: one function per operator, from tensors to the kernel's arguments.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mixers/opset.h"
#include "mixers/types.h"

namespace hsm::onnxruntime {

// Everything that a kernel sees of one call. Shapes and attributes were checked against the table.
struct Call {
  DType type;  // T
  std::span<const opset::AttributeValue> attributes;
  std::span<const opset::Shape> shapes;  // of the inputs
  std::span<const void* const> inputs;
  std::span<void* const> outputs;
};

using Compute = void (*)(const Call& call, const ParallelFor& parallel_for);

// Pairs (input, output) that may share one buffer.
struct InPlace {
  int input;
  int output;
};

// Returns the kernel of an operator of the table.
Compute compute_of(const opset::Operator& op);

}  // namespace hsm::onnxruntime
