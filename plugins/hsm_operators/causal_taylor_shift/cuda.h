// CausalTaylorShift on the GPU; the arguments' pointers are device pointers, and `lengths` is never read by the host.
//
// Tactics: `step` reads and writes the state once, for a few tokens; `chunk` sums the features of segments of tokens
// side by side, adds them up to the state before each segment, and then attends within the segment and to that state,
// in float32 arithmetic or on tensor cores (float16 with `normalize`, bfloat16).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/common/cuda/device.h"

namespace hsm::cuda {

std::span<const std::string_view> causal_taylor_shift_tactics() noexcept;
bool causal_taylor_shift_supports(const CausalTaylorShiftArgs& args, int tactic, const Device& device) noexcept;
int causal_taylor_shift_default_tactic(const CausalTaylorShiftArgs& args, const Device& device) noexcept;
// Bytes; grows with batch, length and heads. The workspace is aligned to 16 bytes.
std::size_t causal_taylor_shift_workspace(const CausalTaylorShiftArgs& args, int tactic, const Device& device) noexcept;
// Returns 0 or a cudaError_t.
int causal_taylor_shift_launch(const CausalTaylorShiftArgs& args, int tactic, const Device& device, void* workspace,
                               Stream stream) noexcept;

}  // namespace hsm::cuda
