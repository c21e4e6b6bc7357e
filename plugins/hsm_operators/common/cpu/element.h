// Typed access to untyped buffers, for the naive kernels and the borders of the fast ones.
#pragma once

#include <cstdint>

#include "hsm_operators/common/types.h"

namespace hsm::cpu {

// Calls `body` with a value of the element type that `type` names: body(float{}), body(Half{}) or body(BFloat16{}).
template <typename F>
void with_element(DType type, F&& body) {
  switch (type) {
    case DType::kFloat16:
      return body(Half{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat32:
    case DType::kInt64:
    case DType::kUInt8:
      return body(float{});
  }
}

template <typename T>
double load(const void* data, std::int64_t index) {
  return to_float(static_cast<const T*>(data)[index]);
}

template <typename T>
void store(void* data, std::int64_t index, double value) {
  static_cast<T*>(data)[index] = from_float<T>(static_cast<float>(value));
}

}  // namespace hsm::cpu
