// Where the CUDA kernels run: a GPU (gpu.cc), or the host under the tests' shim (plugins/tests/emulated).
#pragma once

#include <string>

namespace hsm::torch {

// Makes a GPU the calling thread's; returns 0 or a cudaError_t.
int use_device(int device);

// What an error of CUDA means.
std::string describe(int error);

}  // namespace hsm::torch
