// The naive kernels behind the same call as the fast ones.
#pragma once

#include "hsm_operators/common/bindings.h"

namespace hsm::fuzz {

// Computes one call straight from the operator's definition. Binds tensors to arguments by the names in the table, on
// purpose not with the adapter's own code, so that a wrong index in either is seen.
void run_definition(const opset::Operator& op, const Call& call);

}  // namespace hsm::fuzz
