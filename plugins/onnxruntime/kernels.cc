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

PackedExperts pack_constant(const opset::Operator& op, DType type, std::size_t input, const opset::Shape& shape,
                            const void* data, std::size_t limit) {
  if (op.inputs[input].name != "weight" || shape.size() != 4) return nullptr;
  const ExpertMatMulArgs args{
      .heads = shape[0], .experts = shape[1], .inputs = shape[2], .outputs = shape[3], .type = type, .weight = data};
  if (packed_experts_count(args) > limit / sizeof(float)) return nullptr;
  return pack_experts(args);
}

const char* execution_provider() { return nullptr; }

}  // namespace hsm::onnxruntime
