// Binds the operator table to the CPU kernels: one function per operator.
#pragma once

#include "mixers/bindings.h"
#include "mixers/opset.h"
#include "mixers/types.h"

namespace hsm::onnxruntime {

using Compute = void (*)(const Call& call, const ParallelFor& parallel_for);

// Returns the kernel of an operator of the table.
Compute compute_of(const opset::Operator& op);

}  // namespace hsm::onnxruntime
