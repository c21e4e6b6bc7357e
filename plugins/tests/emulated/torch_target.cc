// CUDA kernels for PyTorch on the host: the device is the shim's, and there is one.
#include "hsm_operators/common/cuda/current_device.h"
#include "simt.h"
#include "torch/cuda/target.h"

namespace hsm {

std::optional<cuda::Device> cuda::current_device() noexcept {
  return Device{.sm = 86, .multiprocessors = 4, .shared_memory_per_block = simt::settings().shared_memory_limit};
}

int torch::use_device(int device) { return device == 0 ? 0 : 101; }  // cudaErrorInvalidDevice

std::string torch::describe(int error) { return "error " + std::to_string(error) + ": " + simt::last_error(); }

}  // namespace hsm
