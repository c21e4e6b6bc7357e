// Launchers of the single kernels of TaylorShift, by arithmetic unit; taylor_call.cu chooses between them. No CUDA
// header in here.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hsm_operators/taylor_shift/taylor_call.h"

namespace hsm::cuda {

// A kernel has an instance for each class of widths; the wider of d and e decides on it.
inline std::int64_t class_width(const TaylorCall& call) { return std::max(call.dim, call.value_dim); }

std::size_t simt_shared_bytes(std::int64_t dim, std::int64_t value_dim) noexcept;
int launch_accumulate_simt(const TaylorCall& call, DType type, Stream stream) noexcept;
int launch_attend_simt(const TaylorCall& call, DType type, Stream stream) noexcept;

std::int64_t tensor_feature_tile(std::int64_t dim, std::int64_t value_dim) noexcept;
std::size_t tensor_accumulate_bytes(std::int64_t dim, std::int64_t value_dim) noexcept;
std::size_t tensor_attend_bytes(std::int64_t dim, std::int64_t value_dim, bool sums, bool keys) noexcept;
int launch_accumulate_tensor(const TaylorCall& call, DType type, Stream stream) noexcept;
int launch_attend_tensor(const TaylorCall& call, DType type, Stream stream) noexcept;

// Calls body(sums, keys) with what a call's queries are answered from, boolean constants.
template <typename Body>
auto with_terms(const TaylorCall& call, Body&& body) {
  if (call.sums == nullptr) return body(std::false_type(), std::true_type());
  if (call.causal) return body(std::true_type(), std::true_type());
  return body(std::true_type(), std::false_type());
}

}  // namespace hsm::cuda
