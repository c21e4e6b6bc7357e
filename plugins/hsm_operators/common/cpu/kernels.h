// The CPU kernels of the operator table: from an operator to the function that computes a call of it.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

namespace hsm::cpu {

// A constant input that a kernel reads faster when it was packed once.
struct Packing {
  int input = -1;  // its index; -1: there is none
  // Null when the shape cannot be right, or when packing would take more than `limit` bytes.
  Packed (*pack)(DType type, const opset::Shape& shape, const void* data, std::size_t limit) = nullptr;
};

struct Kernel {
  void (*run)(const Call& call, const ParallelFor& parallel_for);
  Packing packing;
  std::string_view domain;
  std::string_view name;
};

// Returns one row for each operator that has a kernel. Generated.
std::span<const Kernel> kernels();

// Returns an operator's kernel, or nullptr.
inline const Kernel* kernel_of(const opset::Operator& op) { return opset::row_of(kernels(), op); }

// What a row's `pack` is: `args_of` makes the arguments of the kernel's own pack_constant from the constant alone.
template <auto args_of, std::size_t rank>
Packed pack(DType type, const opset::Shape& shape, const void* data, std::size_t limit) {
  if (shape.size() != rank) return nullptr;
  const auto args = args_of(type, shape, data);
  return packed_count(args) > limit / sizeof(float) ? nullptr : pack_constant(args);
}

}  // namespace hsm::cpu
