// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/causal_taylor_shift/bindings.gen.h"
#include "hsm_operators/causal_taylor_shift/cuda.gen.h"
#include "hsm_operators/decayed_linear_attention/bindings.gen.h"
#include "hsm_operators/decayed_linear_attention/cuda.gen.h"
#include "hsm_operators/expert_matmul/bindings.gen.h"
#include "hsm_operators/expert_matmul/cuda.gen.h"
#include "hsm_operators/expert_mlp/bindings.gen.h"
#include "hsm_operators/expert_mlp/cuda.gen.h"
#include "hsm_operators/shift_mix/bindings.gen.h"
#include "hsm_operators/shift_mix/cuda.gen.h"
#include "hsm_operators/taylor_shift/bindings.gen.h"
#include "hsm_operators/taylor_shift/cuda.gen.h"

namespace hsm::cuda {
namespace {

constexpr Kernels kRows[] = {
    {functions<causal_taylor_shift_args,
                causal_taylor_shift_tactics,
                causal_taylor_shift_supports,
                causal_taylor_shift_default_tactic,
                causal_taylor_shift_workspace,
                causal_taylor_shift_launch>(),
     "hsm", "CausalTaylorShift"},
    {functions<decayed_linear_attention_args,
                decayed_linear_attention_tactics,
                decayed_linear_attention_supports,
                decayed_linear_attention_default_tactic,
                decayed_linear_attention_workspace,
                decayed_linear_attention_launch>(),
     "hsm", "DecayedLinearAttention"},
    {functions<decayed_delta_rule_args,
                decayed_delta_rule_tactics,
                decayed_delta_rule_supports,
                decayed_delta_rule_default_tactic,
                decayed_delta_rule_workspace,
                decayed_delta_rule_launch>(),
     "hsm", "DecayedDeltaRule"},
    {functions<expert_matmul_args,
                expert_matmul_tactics,
                expert_matmul_supports,
                expert_matmul_default_tactic,
                expert_matmul_workspace,
                expert_matmul_launch>(),
     "hsm", "ExpertMatMul"},
    {functions<expert_matmul_sum_args,
                expert_matmul_sum_tactics,
                expert_matmul_sum_supports,
                expert_matmul_sum_default_tactic,
                expert_matmul_sum_workspace,
                expert_matmul_sum_launch>(),
     "hsm", "ExpertMatMulSum"},
    {functions<expert_mlp_args,
                expert_mlp_tactics,
                expert_mlp_supports,
                expert_mlp_default_tactic,
                expert_mlp_workspace,
                expert_mlp_launch>(),
     "hsm", "ExpertMLP"},
    {functions<token_shift_args,
                shift_mix_tactics,
                shift_mix_supports,
                shift_mix_default_tactic,
                shift_mix_workspace,
                shift_mix_launch>(),
     "hsm", "TokenShift"},
    {functions<token_shift_cached_args,
                shift_mix_tactics,
                shift_mix_supports,
                shift_mix_default_tactic,
                shift_mix_workspace,
                shift_mix_launch>(),
     "hsm", "TokenShiftCached"},
    {functions<shift_mix_args,
                shift_mix_tactics,
                shift_mix_supports,
                shift_mix_default_tactic,
                shift_mix_workspace,
                shift_mix_launch>(),
     "hsm", "ShiftMix"},
    {functions<shift_mix_cached_args,
                shift_mix_tactics,
                shift_mix_supports,
                shift_mix_default_tactic,
                shift_mix_workspace,
                shift_mix_launch>(),
     "hsm", "ShiftMixCached"},
    {functions<taylor_shift_args,
                taylor_shift_tactics,
                taylor_shift_supports,
                taylor_shift_default_tactic,
                taylor_shift_workspace,
                taylor_shift_launch>(),
     "hsm", "TaylorShift"},
    {functions<taylor_shift_masked_args,
                taylor_shift_tactics,
                taylor_shift_supports,
                taylor_shift_default_tactic,
                taylor_shift_workspace,
                taylor_shift_launch>(),
     "hsm", "TaylorShiftMasked"},
};

}  // namespace

std::span<const Kernels> kernels() { return kRows; }

}  // namespace hsm::cuda
