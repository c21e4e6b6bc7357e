// Tensor cores and asynchronous copies, as thin device functions. Fragment layouts are those of the PTX ISA
// ("Matrix fragments for mma.m16n8k16"); with g = lane / 4 and t = lane % 4, two elements to a register:
//
//   a (16×16, row)  a[0]: (g, 2t..2t+1)   a[1]: (g+8, 2t..)   a[2]: (g, 2t+8..)   a[3]: (g+8, 2t+8..)
//   b (16×8, col)   b[0]: (2t..2t+1, g)   b[1]: (2t+8.., g)
//   d (16×8)        d[0], d[1]: (g, 2t..2t+1)   d[2], d[3]: (g+8, 2t..2t+1)
#pragma once

#include <cstdint>
#include <type_traits>

#include "hsm_operators/common/cuda/platform.cuh"

namespace hsm::cuda {

__device__ __forceinline__ std::uint32_t shared_address(const void* data) {
#ifdef __CUDA_ARCH__
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(data));
#else
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(data));  // never used
#endif
}

// d += a·b with float32 sums; T is __half (sm_75 on) or __nv_bfloat16 (sm_80 on). All lanes of the warp take part.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
#if HSM_ARCHITECTURE >= 800
  if constexpr (std::is_same_v<T, __half>) {
    HSM_ASM(::hsm::simt::mma_m16n8k16_f16(d, a, b),
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                         "r"(b[1])));
  } else {
    HSM_ASM(::hsm::simt::mma_m16n8k16_bf16(d, a, b),
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                         "r"(b[1])));
  }
#else
  if constexpr (std::is_same_v<T, __half>) {
    // Turing multiplies half as deep: the two halves of the fragments are the fragments of m16n8k8.
    for (int i = 0; i < 2; ++i) {
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
    }
  } else {
    __trap();  // has_tensor_cores() keeps launchers from coming here
  }
#endif
}

// Loads 8×8 matrices of 16-bit elements from shared memory; lane i gives the address of row i % 8 of matrix i / 8 (for
// two matrices: lanes 0..15). Rows are 16 bytes, aligned to 16. In register m, lane i gets elements 2·(i%4) and the
// next of row i/4 of matrix m; transposed: of column i/4. All lanes of the warp take part.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  HSM_ASM(::hsm::simt::ldmatrix(r, row, false),
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]),
                       "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory"));
}

__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  HSM_ASM(::hsm::simt::ldmatrix(r, row, true),
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]),
                       "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory"));
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
  HSM_ASM(::hsm::simt::ldmatrix(r, row, false),
          asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]),
                       "=r"(r[1]) : "r"(shared_address(row)) : "memory"));
}

__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row) {
  HSM_ASM(::hsm::simt::ldmatrix(r, row, true),
          asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]),
                       "=r"(r[1]) : "r"(shared_address(row)) : "memory"));
}

// Copies the first `bytes` (0, 2, … 16) of 16 bytes of global memory to shared memory, both aligned to 16, and zeros
// the rest. Done after the cp_async_wait that covers the group; other threads see it after a barrier. Before sm_80 an
// ordinary copy.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int bytes = 16) {
#if HSM_ARCHITECTURE >= 800
  HSM_ASM(::hsm::simt::cp_async_16(shared, global, bytes),
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                       "r"(bytes) : "memory"));
#else
  if (bytes == 16) {
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
    return;
  }
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
    static_cast<std::uint16_t*>(shared)[i] = 2 * i < bytes ? static_cast<const std::uint16_t*>(global)[i] : 0;
  }
#endif
}

// Closes a group of this thread's copies; a group may be empty.
__device__ __forceinline__ void cp_async_commit() {
#if HSM_ARCHITECTURE >= 800
  HSM_ASM(::hsm::simt::cp_async_commit(), asm volatile("cp.async.commit_group;" :: : "memory"));
#endif
}

// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
#if HSM_ARCHITECTURE >= 800
  HSM_ASM(::hsm::simt::cp_async_wait(kPending), asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"));
#endif
}

}  // namespace hsm::cuda
