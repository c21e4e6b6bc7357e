#include "hsm_operators/common/cuda/operators.h"

#include <algorithm>
#include <iterator>

#include "hsm_operators/causal_taylor_shift/cuda.h"
#include "hsm_operators/expert_matmul/cuda.h"
#include "hsm_operators/shift_mix/cuda.h"
#include "hsm_operators/taylor_shift/cuda.h"

namespace hsm::cuda {
namespace {

// One mixer's host interface, on the arguments that `args_of` makes of a call.
template <auto args_of, auto tactics, auto supports, auto default_tactic, auto workspace, auto launch>
constexpr Kernels kernels(std::string_view op) {
  return {.op = op,
          .tactics = []() noexcept { return tactics(); },
          .supports = [](const Call& call, int tactic,
                         const Device& device) noexcept { return supports(args_of(call), tactic, device); },
          .default_tactic = [](const Call& call,
                               const Device& device) noexcept { return default_tactic(args_of(call), device); },
          .workspace = [](const Call& call, int tactic,
                          const Device& device) noexcept { return workspace(args_of(call), tactic, device); },
          .launch = [](const Call& call, int tactic, const Device& device, void* memory,
                       Stream stream) noexcept { return launch(args_of(call), tactic, device, memory, stream); }};
}

template <auto args_of>
constexpr Kernels shift(std::string_view op) {
  return kernels<args_of, shift_mix_tactics, shift_mix_supports, shift_mix_default_tactic, shift_mix_workspace,
                 shift_mix_launch>(op);
}

constexpr Kernels taylor(std::string_view op) {
  return kernels<taylor_shift_args, taylor_shift_tactics, taylor_shift_supports, taylor_shift_default_tactic,
                 taylor_shift_workspace, taylor_shift_launch>(op);
}

constexpr Kernels kKernels[] = {
    shift<token_shift_args>("TokenShift"),
    shift<shift_mix_args>("ShiftMix"),
    shift<token_shift_cached_args>("TokenShiftCached"),
    shift<shift_mix_cached_args>("ShiftMixCached"),
    taylor("TaylorShift"),
    taylor("TaylorShiftMasked"),
    kernels<causal_taylor_shift_args, causal_taylor_shift_tactics, causal_taylor_shift_supports,
            causal_taylor_shift_default_tactic, causal_taylor_shift_workspace, causal_taylor_shift_launch>(
        "CausalTaylorShift"),
    kernels<expert_matmul_args, expert_matmul_tactics, expert_matmul_supports, expert_matmul_default_tactic,
            expert_matmul_workspace, expert_matmul_launch>("ExpertMatMul"),
    kernels<expert_matmul_args, expert_matmul_sum_tactics, expert_matmul_sum_supports, expert_matmul_sum_default_tactic,
            expert_matmul_sum_workspace, expert_matmul_sum_launch>("ExpertMatMulSum"),
};

}  // namespace

const Kernels& kernels_of(const opset::Operator& op) { return *std::ranges::find(kKernels, op.name, &Kernels::op); }

}  // namespace hsm::cuda
