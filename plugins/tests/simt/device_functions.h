// CUDA's device vocabulary for g++: what the kernels of this project use, no more. Atomics on floating-point numbers
// are missing on purpose: their results depend on the order of the threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>

#include "block.h"

// ---- synchronisation ----

inline void __syncthreads(const hsm::simt::Where& where = hsm::simt::Where::current()) {
  hsm::simt::running->barrier(0, where);
}
inline int __syncthreads_count(int predicate, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  return hsm::simt::running->barrier(predicate, where);
}
inline int __syncthreads_or(int predicate, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  return hsm::simt::running->barrier(predicate, where) != 0;
}
inline int __syncthreads_and(int predicate, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  return hsm::simt::running->barrier(!predicate, where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  hsm::simt::running->meet("__syncwarp", mask, nullptr, 0, nullptr, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- shuffles, votes and reductions of a warp ----

namespace hsm::simt {

// The value of lane `source`, or the own one if the source lies outside the segment.
template <typename T>
T shuffle(const char* operation, unsigned mask, T value, unsigned source, bool inside, const Where& where) {
  static_assert(sizeof(T) <= sizeof(Slot));
  const Slot* slots = running->meet(operation, mask, &value, sizeof value, nullptr, where);
  if (!inside) return value;
  if ((mask >> source & 1U) == 0) running->fail(operation, "reads a lane outside of the mask", where);
  std::memcpy(&value, slots[source].bytes, sizeof value);
  return value;
}

template <typename T, typename F>
T reduce(unsigned mask, T value, F combine, const Where& where) {
  const Slot* slots = running->meet("__reduce_sync", mask, &value, sizeof value, nullptr, where);
  bool first = true;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1U) == 0) continue;
    T other;
    std::memcpy(&other, slots[lane].bytes, sizeof other);
    value = first ? other : combine(value, other);
    first = false;
  }
  return value;
}

inline unsigned lane() { return running->current->lane; }

}  // namespace hsm::simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const hsm::simt::Where& where = hsm::simt::Where::current()) {
  const unsigned segment = hsm::simt::lane() & ~(static_cast<unsigned>(width) - 1);
  const unsigned lane = segment + (static_cast<unsigned>(source) & (static_cast<unsigned>(width) - 1));
  return hsm::simt::shuffle("__shfl_sync", mask, value, lane, true, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32,
                  const hsm::simt::Where& where = hsm::simt::Where::current()) {
  const unsigned lane = hsm::simt::lane() ^ static_cast<unsigned>(flip);
  const unsigned end = (hsm::simt::lane() & ~(static_cast<unsigned>(width) - 1)) + static_cast<unsigned>(width);
  return hsm::simt::shuffle("__shfl_xor_sync", mask, value, lane % 32, lane < end, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const hsm::simt::Where& where = hsm::simt::Where::current()) {
  const unsigned place = hsm::simt::lane() & (static_cast<unsigned>(width) - 1);
  const bool inside = place + delta < static_cast<unsigned>(width);
  return hsm::simt::shuffle("__shfl_down_sync", mask, value, (hsm::simt::lane() + delta) % 32, inside, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const hsm::simt::Where& where = hsm::simt::Where::current()) {
  const bool inside = (hsm::simt::lane() & (static_cast<unsigned>(width) - 1)) >= delta;
  return hsm::simt::shuffle("__shfl_up_sync", mask, value, (hsm::simt::lane() - delta) % 32, inside, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const hsm::simt::Where& where = hsm::simt::Where::current()) {
  const unsigned own = predicate != 0 ? 1U << hsm::simt::lane() : 0U;
  return hsm::simt::reduce(mask, own, [](unsigned a, unsigned b) { return a | b; }, where);
}
inline int __any_sync(unsigned mask, int predicate, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const hsm::simt::Where& where = hsm::simt::Where::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

// ---- atomics, integers only ----

template <std::integral T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = static_cast<T>(old + value);
  return old;
}
template <std::integral T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <std::integral T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}
template <std::integral T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = value;
  return old;
}
template <std::integral T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- arithmetic ----

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
[[noreturn]] inline void __trap() { hsm::simt::running->fail("__trap", "was called", hsm::simt::Where::current()); }

using std::max;
using std::min;
