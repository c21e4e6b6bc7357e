/* The operators' CUDA kernels as plain C functions, for PyTorch: libhsm_kernels_cuda.so has these beside
 * hsm_kernels_version, _count, _signature and _message of hsm_kernels.h.
 *
 * Nothing of PyTorch is needed to build the library. Nothing here allocates device memory or waits for the device, so
 * the calls may be captured into a CUDA graph, after one call of each kind outside of it: CUDA loads kernels lazily. */
#ifndef HSM_KERNELS_CUDA_H_
#define HSM_KERNELS_CUDA_H_

#include "torch/hsm_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns the names of an operator's tactics, a comma between them; empty where it has no kernels, null beyond the last
 * operator. */
HSM_KERNELS_API const char* hsm_kernels_cuda_tactics(int32_t index);

/* Plans a call on a device.
 *
 *   index, type, sizes, attributes   as of hsm_kernels_run
 *   device       number of the GPU, as CUDA counts them
 *   tactic       a tactic's number; below 0 it gets that of the one that is expected to be the fastest
 *   workspace    gets the bytes of device memory that the call needs beside its tensors
 *
 * Returns hsm_kernels_status: refused where the tactic, or none, takes the call on this device. */
HSM_KERNELS_API int32_t hsm_kernels_cuda_plan(int32_t index, int32_t type, const int64_t* sizes,
                                              const int64_t* attributes, int32_t device, int32_t* tactic,
                                              int64_t* workspace);

/* Puts a call into a stream.
 *
 *   tactic           of hsm_kernels_cuda_plan, or another one that takes the call
 *   inputs, outputs  pointers to device memory; a state that the operator allows to be updated in place may be in both
 *   workspace        device memory, aligned as cudaMalloc does it; it may be used again by what follows in the stream
 *   stream           a cudaStream_t of the device
 *
 * Row numbers (lengths, positions) stand on the device and are not checked; wrong ones never lead out of the tensors.
 */
HSM_KERNELS_API int32_t hsm_kernels_cuda_launch(int32_t index, int32_t type, const int64_t* sizes,
                                                const int64_t* attributes, int32_t device, int32_t tactic,
                                                const void* const* inputs, void* const* outputs, void* workspace,
                                                void* stream);

#ifdef __cplusplus
}
#endif

#endif /* HSM_KERNELS_CUDA_H_ */
