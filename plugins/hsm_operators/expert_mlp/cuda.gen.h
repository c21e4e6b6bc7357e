// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/expert_mlp/args.gen.h"

namespace hsm::cuda {

// Pointers in the arguments are device pointers; lists of attributes are in host memory. A tactic is an implementation
// or a tile shape, an index into the tactics' names. Nothing allocates, waits for the device, or throws.

std::span<const std::string_view> expert_mlp_tactics() noexcept;
// Whether a tactic can run this call on this device; reads sizes and attributes only.
bool expert_mlp_supports(const ExpertMlpArgs& args, int tactic, const Device& device) noexcept;
int expert_mlp_default_tactic(const ExpertMlpArgs& args, const Device& device) noexcept;
// Bytes of device memory beside the arguments; grows with the sizes.
std::size_t expert_mlp_workspace(const ExpertMlpArgs& args, int tactic, const Device& device) noexcept;
// Puts the work into the stream. Returns 0 or a cudaError_t.
int expert_mlp_launch(const ExpertMlpArgs& args, int tactic, const Device& device, void* workspace,
                      Stream stream) noexcept;

}  // namespace hsm::cuda
