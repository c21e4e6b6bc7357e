#include "torch/kernels.h"

#include <algorithm>
#include <iterator>
#include <string_view>

namespace hsm::torch {
namespace {

template <auto args_of, auto kernel>
void fast(const Call& call, const ParallelFor& parallel_for) {
  kernel(args_of(call), parallel_for);
}

template <auto args_of, auto kernel>
void naive(const Call& call, const ParallelFor&) {
  kernel(args_of(call));
}

void taylor(const Call& call, const ParallelFor& parallel_for) { taylor_shift(taylor_shift_args(call), parallel_for); }

struct Row {
  std::string_view name;
  Kernels kernels;
};

constexpr Row kRows[] = {
    {"TokenShift", {fast<token_shift_args, shift_mix>, naive<token_shift_args, shift_mix_naive>}},
    {"ShiftMix", {fast<shift_mix_args, shift_mix>, naive<shift_mix_args, shift_mix_naive>}},
    {"TokenShiftCached", {fast<token_shift_cached_args, shift_mix>, naive<token_shift_cached_args, shift_mix_naive>}},
    {"ShiftMixCached", {fast<shift_mix_cached_args, shift_mix>, naive<shift_mix_cached_args, shift_mix_naive>}},
    {"TaylorShift", {taylor, naive<taylor_shift_args, taylor_shift_naive>}},
    {"TaylorShiftMasked", {taylor, naive<taylor_shift_args, taylor_shift_naive>}},
    {"CausalTaylorShift",
     {fast<causal_taylor_shift_args, causal_taylor_shift>, naive<causal_taylor_shift_args, causal_taylor_shift_naive>}},
    {"ExpertMatMul", {fast<expert_matmul_args, expert_matmul>, naive<expert_matmul_args, expert_matmul_naive>}},
    {"ExpertMatMulSum",
     {fast<expert_matmul_args, expert_matmul_sum>, naive<expert_matmul_args, expert_matmul_sum_naive>}},
};

}  // namespace

Kernels kernels_of(const opset::Operator& op) {
  const auto found = std::ranges::find(kRows, op.name, &Row::name);
  return found == std::end(kRows) ? Kernels{} : found->kernels;
}

}  // namespace hsm::torch
