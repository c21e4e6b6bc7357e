// Kernels on a GPU, in the memory and the stream of ONNX Runtime's CUDA provider.
#include <cuda_runtime_api.h>

#include "onnxruntime/cuda/target.h"
#include "onnxruntime/status.h"

namespace hsm::onnxruntime {

const char* execution_provider() { return "CUDAExecutionProvider"; }

const char* memory_name() { return "Cuda"; }

cuda::Stream stream_of(const Execution& execution) {
  void* stream = nullptr;
  require(execution.api->KernelContext_GetGPUComputeStream(execution.context, &stream));
  return stream;
}

int tactic_of(const cuda::Kernels& kernels, const Call& call, const cuda::Device& device) {
  return kernels.default_tactic(call, device);
}

std::string describe(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace hsm::onnxruntime
