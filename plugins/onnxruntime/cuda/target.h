// Where the CUDA kernels run: a GPU through ONNX Runtime's CUDA provider (gpu.cc), or the host under the tests' shim
// (plugins/tests/emulated). Linked in, like the kernels.
#pragma once

#include <string>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "onnxruntime/kernels.h"

namespace hsm::onnxruntime {

// ONNX Runtime's name of the memory that the tensors are in.
const char* memory_name();

// The stream that the call's work belongs to.
cuda::Stream stream_of(const Execution& execution);

// The tactic to run a call with.
int tactic_of(const cuda::Kernels& kernels, const Call& call, const cuda::Device& device);

// What a launcher's error means.
std::string describe(int error);

}  // namespace hsm::onnxruntime
