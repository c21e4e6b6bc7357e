// The host shim: compiles this project's CUDA sources with an ordinary C++ compiler and runs their blocks on the CPU,
// one fiber a thread, to find what is wrong with them without a GPU. hsm_operators/common/cuda/platform.cuh includes it
// under HSM_SIMT.
//
// Found: missing and divergent barriers, lanes that a mask names but that have ended, reads of shared memory that
// nobody wrote, cp.async without a wait, writes past shared memory, and, with AddressSanitizer, any access out of
// bounds. Not found: races between blocks (other than through the order of blocks), bank conflicts, anything about
// speed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include "async_copy.h"
#include "block.h"
#include "device_functions.h"
#include "launch.h"
#include "tensor_core.h"

namespace hsm::simt {

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(running->shared());
}

}  // namespace hsm::simt

#define threadIdx (::hsm::simt::running->current->index)
#define blockIdx (::hsm::simt::running->index)
#define blockDim (::hsm::simt::running->dim)
#define gridDim (::hsm::simt::running->grid)

#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "shared memory is declared with HSM_DYNAMIC_SHARED")
