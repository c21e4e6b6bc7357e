// The kernels that the library runs.
#pragma once

#include "hsm_operators/common/bindings.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

namespace hsm::torch {

using Compute = void (*)(const Call& call, const ParallelFor& parallel_for);

// The kernels of one operator; null where there is none.
struct Kernels {
  Compute fast = nullptr;
  Compute naive = nullptr;
};

Kernels kernels_of(const opset::Operator& op);

}  // namespace hsm::torch
