// Everything that differs between nvcc and the host shim of the tests (plugins/tests/simt). Kernel sources contain no
// other difference.
//
//   HSM_DYNAMIC_SHARED(type, name)   declares `type* name`, the block's shared memory; all of it is dynamic, because
//   the
//                                    shim poisons it before each block and watches its borders
//   HSM_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)
//                                    launches and returns an int, 0 or a cudaError_t; parenthesise a kernel with
//                                    commas: HSM_LAUNCH((mix<T, 4>), ...)
//   HSM_ASM(emulation, statement)    an inline assembly statement, and what the shim calls instead
#pragma once

#ifdef HSM_SIMT

#include "simt.h"

#define HSM_DYNAMIC_SHARED(type, name) type* const name = ::hsm::simt::shared_memory<type>()
#define HSM_LAUNCH(kernel, ...) ::hsm::simt::launch<kernel>(__VA_ARGS__)
#define HSM_ASM(emulation, ...) emulation

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <tuple>

namespace hsm::cuda {

// More dynamic shared memory than this must be asked for, kernel by kernel.
inline constexpr std::size_t kDefaultSharedMemory = 48 * 1024;

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, void* stream,
           Arguments... arguments) {
  if (shared_bytes > kDefaultSharedMemory) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  return std::apply(
      [&](auto&... value) -> int {
        void* pointers[] = {&value...};
        return cudaLaunchKernel(kernel, grid, block, pointers, shared_bytes, static_cast<cudaStream_t>(stream));
      },
      values);
}

}  // namespace hsm::cuda

#define HSM_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(128) unsigned char hsm_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(hsm_shared_memory)
#define HSM_LAUNCH(kernel, ...) ::hsm::cuda::launch(kernel, __VA_ARGS__)
#define HSM_ASM(emulation, ...) __VA_ARGS__

#endif

// The architecture that device code is compiled for, times ten (860 is sm_86). Outside device passes: all features.
#ifdef __CUDA_ARCH__
#define HSM_ARCHITECTURE __CUDA_ARCH__
#else
#define HSM_ARCHITECTURE 800
#endif
