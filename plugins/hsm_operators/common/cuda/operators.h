// The operator table's CUDA kernels: one row per operator, each function on a Call whose tensors are in device memory.
//
// A tactic is an implementation or a tile shape, numbered from 0. Nothing here allocates, waits for the device, or
// throws, apart from what running out of host memory makes of it.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/bindings.h"
#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/common/opset.h"

namespace hsm::cuda {

struct Kernels {
  std::string_view op;
  // Names of the tactics, in their order.
  std::span<const std::string_view> (*tactics)() noexcept;
  // Whether a tactic can run this call on this device; reads sizes and attributes only.
  bool (*supports)(const Call& call, int tactic, const Device& device) noexcept;
  // The tactic that is expected to be fastest for this call on this device.
  int (*default_tactic)(const Call& call, const Device& device) noexcept;
  // Bytes of device memory that a tactic needs beside the tensors. Grows with the sizes.
  std::size_t (*workspace)(const Call& call, int tactic, const Device& device) noexcept;
  // Puts the work into the stream; returns 0 or a cudaError_t.
  int (*launch)(const Call& call, int tactic, const Device& device, void* workspace, Stream stream) noexcept;
};

// Returns the kernels of an operator of the table.
const Kernels& kernels_of(const opset::Operator& op);

}  // namespace hsm::cuda
