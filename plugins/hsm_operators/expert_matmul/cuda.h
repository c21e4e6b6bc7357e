// ExpertMatMul and ExpertMatMulSum on the GPU (hsm_operators/expert_matmul/expert_matmul.h has the equations).
//
// Pointers of the arguments are device pointers; `packed` is not read.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/expert_matmul/expert_matmul.h"

namespace hsm::cuda {

// Names of the tactics; a tactic is an index into them.
std::span<const std::string_view> expert_matmul_tactics() noexcept;
std::span<const std::string_view> expert_matmul_sum_tactics() noexcept;

bool expert_matmul_supports(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept;
bool expert_matmul_sum_supports(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept;

int expert_matmul_default_tactic(const ExpertMatMulArgs& args, const Device& device) noexcept;
int expert_matmul_sum_default_tactic(const ExpertMatMulArgs& args, const Device& device) noexcept;

// Bytes of device memory beside the arguments: none.
std::size_t expert_matmul_workspace(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept;
std::size_t expert_matmul_sum_workspace(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept;

// Enqueues the kernel. Returns 0 or a cudaError_t.
int expert_matmul_launch(const ExpertMatMulArgs& args, int tactic, const Device& device, void* workspace,
                         Stream stream) noexcept;
int expert_matmul_sum_launch(const ExpertMatMulArgs& args, int tactic, const Device& device, void* workspace,
                             Stream stream) noexcept;

}  // namespace hsm::cuda
