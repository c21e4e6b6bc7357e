// TokenShift and ShiftMix on the GPU, with and without a ring (hsm_operators/shift_mix/shift_mix.h has the equation).
//
// Pointers of the arguments are device pointers; `shifts` is in host memory and travels in the kernels' parameters.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/shift_mix/shift_mix.h"

namespace hsm::cuda {

// Names of the tactics; a tactic is an index into them.
std::span<const std::string_view> shift_mix_tactics() noexcept;

bool shift_mix_supports(const ShiftMixArgs& args, int tactic, const Device& device) noexcept;

int shift_mix_default_tactic(const ShiftMixArgs& args, const Device& device) noexcept;

// Bytes of device memory beside the arguments: none.
std::size_t shift_mix_workspace(const ShiftMixArgs& args, int tactic, const Device& device) noexcept;

// Enqueues the kernels. Returns 0 or a cudaError_t.
int shift_mix_launch(const ShiftMixArgs& args, int tactic, const Device& device, void* workspace,
                     Stream stream) noexcept;

}  // namespace hsm::cuda
