// Kernels on a GPU.
#include <cuda_runtime_api.h>

#include "torch/cuda/target.h"

namespace hsm::torch {

int use_device(int device) { return cudaSetDevice(device); }

std::string describe(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace hsm::torch
