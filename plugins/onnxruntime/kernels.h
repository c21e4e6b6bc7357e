// The kernels that a library runs: the CPU's (kernels.cc) or CUDA's (cuda/kernels.cc), whichever is linked in.
#pragma once

#include <cstddef>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

struct OrtApi;
struct OrtKernelContext;

namespace hsm::onnxruntime {

// What a kernel may use beside its tensors. The CPU's use the threads alone; CUDA's need the rest.
struct Execution {
  ParallelFor parallel_for;
  const OrtApi* api = nullptr;
  const OrtKernelContext* context = nullptr;
};

// Whether the library has a kernel of an operator of the table; where it has none, the operator's body runs.
bool has_kernel(const opset::Operator& op);

// Runs a call of an operator that has a kernel.
void compute(const opset::Operator& op, const Call& call, const Execution& execution);

// Packs a constant input of a node for its kernel. Null when the kernel has no use for it packed, or when that would
// take more than `limit` bytes.
Packed pack_constant(const opset::Operator& op, DType type, std::size_t input, const opset::Shape& shape,
                     const void* data, std::size_t limit);

// The execution provider whose memory the tensors are in; null is the CPU's.
const char* execution_provider();

}  // namespace hsm::onnxruntime
