/* The operators' CPU kernels as plain C functions: what hsm_operators/kernels.py loads, for PyTorch and for tests.
 *
 * Nothing of PyTorch is needed to build the library, so one library serves every version of it. The operators are those
 * of the table that is linked in. All functions may be called from any thread; messages are of the calling thread, and
 * stay until its next call. */
#ifndef HSM_KERNELS_H_
#define HSM_KERNELS_H_

#include <stdint.h>

#if defined(_WIN32)
#define HSM_KERNELS_API __declspec(dllexport)
#else
#define HSM_KERNELS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What changes when a caller must change. */
#define HSM_KERNELS_VERSION 1

typedef enum { HSM_KERNELS_FAST = 0, HSM_KERNELS_NAIVE = 1 } hsm_kernels_kind;

typedef enum { HSM_KERNELS_FLOAT32 = 0, HSM_KERNELS_FLOAT16 = 1, HSM_KERNELS_BFLOAT16 = 2 } hsm_kernels_type;

/* Refused: sizes, attributes or row numbers that the operator does not take, or no such kernel; nothing was computed.
 */
typedef enum { HSM_KERNELS_OK = 0, HSM_KERNELS_REFUSED = 1, HSM_KERNELS_FAILED = 2 } hsm_kernels_status;

/* Has up to `threads` threads, the calling one included, call work(data) once each, and returns when all have. It is
 * the form of GOMP_parallel, which PyTorch's own threads answer to: a second pool would wait for cores on which those
 * spin. */
typedef void (*hsm_kernels_parallel)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

HSM_KERNELS_API int32_t hsm_kernels_version(void);

/* Returns the number of operators. */
HSM_KERNELS_API int32_t hsm_kernels_count(void);

/* Returns the operator of that index as text, `domain::Name(input:type(dimensions),…)->(output…){attribute:type,…}`, or
 * null beyond the last. */
HSM_KERNELS_API const char* hsm_kernels_signature(int32_t index);

/* Returns whether there is a kernel of that kind. */
HSM_KERNELS_API int32_t hsm_kernels_has(int32_t index, int32_t kind);

/* Computes one call. All tensors are contiguous; outputs do not overlap inputs, apart from those of a state that the
 * operator allows to be updated in place: both may be one buffer.
 *
 *   index       of the operator
 *   kind        hsm_kernels_kind
 *   type        hsm_kernels_type of the ports of type T
 *   sizes       of all inputs, one after the other
 *   attributes  for each: how many numbers, then the numbers; a float as the bits of a double
 *   inputs      pointers to their elements
 *   outputs     pointers to memory for theirs; the caller derives their sizes from the operator's dimensions
 *   parallel    runs work on several threads; null: the calling one does it all
 *   threads     how many may compute, the calling one included; the numbers do not depend on it
 *
 * Returns hsm_kernels_status; hsm_kernels_message has the sentence. */
HSM_KERNELS_API int32_t hsm_kernels_run(int32_t index, int32_t kind, int32_t type, const int64_t* sizes,
                                        const int64_t* attributes, const void* const* inputs, void* const* outputs,
                                        hsm_kernels_parallel parallel, int32_t threads);

/* Returns what was wrong with this thread's last call of hsm_kernels_run. */
HSM_KERNELS_API const char* hsm_kernels_message(void);

#ifdef __cplusplus
}
#endif

#endif /* HSM_KERNELS_H_ */
