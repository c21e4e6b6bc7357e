#include "onnxruntime/kernels.h"

#include <algorithm>
#include <utility>

namespace hsm::onnxruntime {
namespace {

template <auto args_of, auto kernel>
void run(const Call& call, const Execution& execution) {
  kernel(args_of(call), execution.parallel_for);
}

void taylor(const Call& call, const Execution& execution) {
  taylor_shift(taylor_shift_args(call), execution.parallel_for);
}

constexpr std::pair<std::string_view, Compute> kComputes[] = {
    {"TokenShift", run<token_shift_args, shift_mix>},
    {"ShiftMix", run<shift_mix_args, shift_mix>},
    {"TokenShiftCached", run<token_shift_cached_args, shift_mix>},
    {"ShiftMixCached", run<shift_mix_cached_args, shift_mix>},
    {"TaylorShift", taylor},
    {"TaylorShiftMasked", taylor},
    {"CausalTaylorShift", run<causal_taylor_shift_args, causal_taylor_shift>},
    {"ExpertMatMul", run<expert_matmul_args, expert_matmul>},
    {"ExpertMatMulSum", run<expert_matmul_args, expert_matmul_sum>},
};

}  // namespace

Compute compute_of(const opset::Operator& op) {
  return std::ranges::find(kComputes, op.name, &std::pair<std::string_view, Compute>::first)->second;
}

const char* execution_provider() { return nullptr; }

}  // namespace hsm::onnxruntime
