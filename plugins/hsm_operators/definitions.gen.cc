// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#include "hsm_operators/common/definition.h"
#include "hsm_operators/attention/bindings.gen.h"
#include "hsm_operators/causal_taylor_shift/bindings.gen.h"
#include "hsm_operators/decayed_linear_attention/bindings.gen.h"
#include "hsm_operators/expert_matmul/bindings.gen.h"
#include "hsm_operators/expert_mlp/bindings.gen.h"
#include "hsm_operators/quantized_expert_matmul/bindings.gen.h"
#include "hsm_operators/shift_mix/bindings.gen.h"
#include "hsm_operators/taylor_shift/bindings.gen.h"

namespace hsm {
namespace {

constexpr Definition kRows[] = {
    {[](const Call& call) { attention_naive(attention_args(call)); },
     "hsm", "Attention"},
    {[](const Call& call) { attention_naive(attention_cached_args(call)); },
     "hsm", "AttentionCached"},
    {[](const Call& call) { attention_naive(window_attention_cached_args(call)); },
     "hsm", "WindowAttentionCached"},
    {[](const Call& call) { attention_naive(relative_attention_args(call)); },
     "hsm", "RelativeAttention"},
    {[](const Call& call) { attention_naive(relative_attention_cached_args(call)); },
     "hsm", "RelativeAttentionCached"},
    {[](const Call& call) { attention_naive(window_relative_attention_cached_args(call)); },
     "hsm", "WindowRelativeAttentionCached"},
    {[](const Call& call) { causal_taylor_shift_naive(causal_taylor_shift_args(call)); },
     "hsm", "CausalTaylorShift"},
    {[](const Call& call) { decayed_linear_attention_naive(decayed_linear_attention_args(call)); },
     "hsm", "DecayedLinearAttention"},
    {[](const Call& call) { decayed_delta_rule_naive(decayed_delta_rule_args(call)); },
     "hsm", "DecayedDeltaRule"},
    {[](const Call& call) { expert_matmul_naive(expert_matmul_args(call)); },
     "hsm", "ExpertMatMul"},
    {[](const Call& call) { expert_matmul_sum_naive(expert_matmul_sum_args(call)); },
     "hsm", "ExpertMatMulSum"},
    {[](const Call& call) { expert_mlp_naive(expert_mlp_args(call)); },
     "hsm", "ExpertMLP"},
    {[](const Call& call) { quantized_expert_matmul_naive(quantized_expert_matmul_args(call)); },
     "hsm", "QuantizedExpertMatMul"},
    {[](const Call& call) { quantized_expert_matmul_sum_naive(quantized_expert_matmul_sum_args(call)); },
     "hsm", "QuantizedExpertMatMulSum"},
    {[](const Call& call) { shift_mix_naive(token_shift_args(call)); },
     "hsm", "TokenShift"},
    {[](const Call& call) { shift_mix_naive(token_shift_cached_args(call)); },
     "hsm", "TokenShiftCached"},
    {[](const Call& call) { shift_mix_naive(shift_mix_args(call)); },
     "hsm", "ShiftMix"},
    {[](const Call& call) { shift_mix_naive(shift_mix_cached_args(call)); },
     "hsm", "ShiftMixCached"},
    {[](const Call& call) { taylor_shift_naive(taylor_shift_args(call)); },
     "hsm", "TaylorShift"},
    {[](const Call& call) { taylor_shift_naive(taylor_shift_masked_args(call)); },
     "hsm", "TaylorShiftMasked"},
};

}  // namespace

std::span<const Definition> definitions() { return kRows; }

}  // namespace hsm
