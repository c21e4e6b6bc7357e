// What the launchers know of the GPU. No CUDA header in here, so that every adapter can include it.
#pragma once

#include <cstddef>

#include "hsm_operators/common/types.h"

namespace hsm::cuda {

// A cudaStream_t.
using Stream = void*;

struct Device {
  int sm = 80;                            // compute capability: 86 is 8.6
  int multiprocessors = 1;                //
  std::size_t shared_memory_per_block{};  // bytes, the opt-in maximum (cudaDevAttrMaxSharedMemoryPerBlockOptin)
};

// cudaErrorInvalidValue and cudaErrorNotSupported, for launchers that refuse their arguments.
inline constexpr int kInvalidValue = 1;
inline constexpr int kNotSupported = 801;

// True if mma_m16n8k16 (mma.cuh) multiplies this type on the device's tensor cores.
constexpr bool has_tensor_cores(const Device& device, DType type) {
  switch (type) {
    case DType::kFloat16:
      return device.sm >= 75;
    case DType::kBFloat16:
      return device.sm >= 80;
    case DType::kFloat32:
    case DType::kInt64:
    case DType::kUInt8:
      return false;
  }
  return false;
}

}  // namespace hsm::cuda
