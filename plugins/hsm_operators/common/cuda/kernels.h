// The CUDA kernels of the operator table, each function on a Call whose tensors are in device memory.
//
// A tactic is an implementation or a tile shape, numbered from 0. Nothing here allocates, waits for the device, or
// throws, apart from what running out of host memory makes of it.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/common/opset.h"

namespace hsm::cuda {

// One operator's host interface.
struct Functions {
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

struct Kernels : Functions {
  std::string_view domain;
  std::string_view name;
};

// Returns one row for each operator that has kernels. Generated.
std::span<const Kernels> kernels();

// Returns an operator's kernels, or nullptr.
inline const Kernels* kernels_of(const opset::Operator& op) { return opset::row_of(kernels(), op); }

// A family's functions on the arguments that `args_of` makes of a call.
template <auto args_of, auto tactics, auto supports, auto default_tactic, auto workspace, auto launch>
constexpr Functions functions() {
  return {.tactics = []() noexcept { return tactics(); },
          .supports = [](const Call& call, int tactic,
                         const Device& device) noexcept { return supports(args_of(call), tactic, device); },
          .default_tactic = [](const Call& call,
                               const Device& device) noexcept { return default_tactic(args_of(call), device); },
          .workspace = [](const Call& call, int tactic,
                          const Device& device) noexcept { return workspace(args_of(call), tactic, device); },
          .launch = [](const Call& call, int tactic, const Device& device, void* memory,
                       Stream stream) noexcept { return launch(args_of(call), tactic, device, memory, stream); }};
}

}  // namespace hsm::cuda
