// Element types on the device: conversions and 16-byte vectors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hsm_operators/common/cuda/platform.cuh"
#include "hsm_operators/common/types.h"

namespace hsm::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}

template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two elements as the tensor cores take them: `low` in bits 0..15.
template <typename T>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  std::uint32_t bits;
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&bits, &pair, sizeof bits);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&bits, &pair, sizeof bits);
  }
  return bits;
}

// Neighbouring elements that are loaded and stored at once; by default 16 bytes of them.
template <typename T, int kCount = 16 / static_cast<int>(sizeof(T))>
struct alignas(kCount * sizeof(T)) Vector {
  static constexpr int kSize = kCount;
  T values[kCount];
};

__device__ __forceinline__ bool is_aligned(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

// The first `count` elements at `data`, zeros after them. `count` may be anything; `data` need not be aligned.
template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* data, std::int64_t count) {
  if (count >= Vector<T>::kSize && is_aligned(data)) return *reinterpret_cast<const Vector<T>*>(data);
  Vector<T> result;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) result.values[i] = i < count ? data[i] : from_float<T>(0.0f);
  return result;
}

// Writes the first `count` elements to `data`.
template <typename T>
__device__ __forceinline__ void store_vector(T* data, const Vector<T>& vector, std::int64_t count) {
  if (count >= Vector<T>::kSize && is_aligned(data)) {
    *reinterpret_cast<Vector<T>*>(data) = vector;
    return;
  }
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) {
    if (i < count) data[i] = vector.values[i];
  }
}

// Host: calls body(T{}) with the device's type for `type` and returns its result.
template <typename Body>
int with_element(DType type, Body&& body) {
  switch (type) {
    case DType::kFloat16:
      return body(__half{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    case DType::kFloat32:
    case DType::kInt64:
    case DType::kUInt8:
      return body(float{});
  }
  return 1;
}

}  // namespace hsm::cuda
