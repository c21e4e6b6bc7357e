// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#include "hsm_operators/common/cpu/kernels.h"
#include "hsm_operators/attention/bindings.gen.h"
#include "hsm_operators/causal_taylor_shift/bindings.gen.h"
#include "hsm_operators/decayed_linear_attention/bindings.gen.h"
#include "hsm_operators/expert_matmul/bindings.gen.h"
#include "hsm_operators/expert_mlp/bindings.gen.h"
#include "hsm_operators/quantized_expert_matmul/bindings.gen.h"
#include "hsm_operators/shift_mix/bindings.gen.h"
#include "hsm_operators/taylor_shift/bindings.gen.h"

namespace hsm::cpu {
namespace {

constexpr Kernel kRows[] = {
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(attention_args(call), parallel_for); },
     {},
     "hsm", "Attention"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(attention_cached_args(call), parallel_for); },
     {},
     "hsm", "AttentionCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(window_attention_cached_args(call), parallel_for); },
     {},
     "hsm", "WindowAttentionCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(relative_attention_args(call), parallel_for); },
     {},
     "hsm", "RelativeAttention"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(relative_attention_cached_args(call), parallel_for); },
     {},
     "hsm", "RelativeAttentionCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::attention(window_relative_attention_cached_args(call), parallel_for); },
     {},
     "hsm", "WindowRelativeAttentionCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::causal_taylor_shift(causal_taylor_shift_args(call), parallel_for); },
     {},
     "hsm", "CausalTaylorShift"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::decayed_linear_attention(decayed_linear_attention_args(call), parallel_for); },
     {},
     "hsm", "DecayedLinearAttention"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::decayed_delta_rule(decayed_delta_rule_args(call), parallel_for); },
     {},
     "hsm", "DecayedDeltaRule"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::expert_matmul(expert_matmul_args(call), parallel_for); },
     {2, pack<expert_matmul_constant, 4>},
     "hsm", "ExpertMatMul"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::expert_matmul_sum(expert_matmul_sum_args(call), parallel_for); },
     {2, pack<expert_matmul_sum_constant, 4>},
     "hsm", "ExpertMatMulSum"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::expert_mlp(expert_mlp_args(call), parallel_for); },
     {},
     "hsm", "ExpertMLP"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::quantized_expert_matmul(quantized_expert_matmul_args(call), parallel_for); },
     {},
     "hsm", "QuantizedExpertMatMul"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::quantized_expert_matmul_sum(quantized_expert_matmul_sum_args(call), parallel_for); },
     {},
     "hsm", "QuantizedExpertMatMulSum"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::shift_mix(token_shift_args(call), parallel_for); },
     {},
     "hsm", "TokenShift"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::shift_mix(token_shift_cached_args(call), parallel_for); },
     {},
     "hsm", "TokenShiftCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::shift_mix(shift_mix_args(call), parallel_for); },
     {},
     "hsm", "ShiftMix"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::shift_mix(shift_mix_cached_args(call), parallel_for); },
     {},
     "hsm", "ShiftMixCached"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::taylor_shift(taylor_shift_args(call), parallel_for); },
     {},
     "hsm", "TaylorShift"},
    {[](const Call& call, const ParallelFor& parallel_for) { ::hsm::taylor_shift(taylor_shift_masked_args(call), parallel_for); },
     {},
     "hsm", "TaylorShiftMasked"},
};

}  // namespace

std::span<const Kernel> kernels() { return kRows; }

}  // namespace hsm::cpu
