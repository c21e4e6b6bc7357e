// The kernels that a library runs: the CPU's (kernels.cc) or CUDA's (cuda/kernels.cc), whichever is linked in.
#pragma once

#include <cstddef>

#include "hsm_operators/common/bindings.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

struct OrtApi;
struct OrtKernelContext;

namespace hsm::onnxruntime {

// What a kernel may use beside its tensors. The CPU's use the threads alone; CUDA's need the rest.
struct Execution {
  ParallelFor parallel_for;
  const opset::Operator* op = nullptr;
  const OrtApi* api = nullptr;
  const OrtKernelContext* context = nullptr;
};

using Compute = void (*)(const Call& call, const Execution& execution);

// Returns the kernel of an operator of the table.
Compute compute_of(const opset::Operator& op);

// Packs a constant input of a node for its kernel. Null when the kernel has no use for it packed, or when that would
// take more than `limit` bytes.
PackedExperts pack_constant(const opset::Operator& op, DType type, std::size_t input, const opset::Shape& shape,
                            const void* data, std::size_t limit);

// The execution provider whose memory the tensors are in; null is the CPU's.
const char* execution_provider();

}  // namespace hsm::onnxruntime
