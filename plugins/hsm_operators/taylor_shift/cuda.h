// TaylorShift and TaylorShiftMasked on the GPU; the arguments' pointers are device pointers.
//
// Tactics: the direct form O(N² d) and the efficient form O(N d³), each in float32 arithmetic (every type and
// architecture) and on tensor cores (float16 with `normalize`, bfloat16).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/taylor_shift/taylor_shift.h"

namespace hsm::cuda {

std::span<const std::string_view> taylor_shift_tactics() noexcept;
bool taylor_shift_supports(const TaylorShiftArgs& args, int tactic, const Device& device) noexcept;
int taylor_shift_default_tactic(const TaylorShiftArgs& args, const Device& device) noexcept;
// Bytes; grows with batch, length and heads. The workspace is aligned to 16 bytes.
std::size_t taylor_shift_workspace(const TaylorShiftArgs& args, int tactic, const Device& device) noexcept;
// Returns 0 or a cudaError_t.
int taylor_shift_launch(const TaylorShiftArgs& args, int tactic, const Device& device, void* workspace,
                        Stream stream) noexcept;

}  // namespace hsm::cuda
