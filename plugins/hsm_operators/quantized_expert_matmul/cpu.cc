#include "hsm_operators/quantized_expert_matmul/args.gen.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/quantized_expert_matmul/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/expert_matmul/expert_split.h"
#include "hsm_operators/expert_matmul/expert_sum-inl.h"
#include "hsm_operators/quantized_expert_matmul/packed_matrix-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

template <typename T>
void sum_packed_part(const QuantizedExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task) {
  const PackedMatrices matrices{.weight = args.weight,
                                .scales = args.scales,
                                .groups = static_cast<std::size_t>(args.groups),
                                .group_bytes = static_cast<std::size_t>(args.group_bytes),
                                .per_byte = static_cast<std::size_t>(args.per_byte),
                                .experts = args.experts,
                                .inputs = static_cast<std::size_t>(args.inputs),
                                .outputs = static_cast<std::size_t>(args.outputs)};
  const TokenRows<T> rows{static_cast<const T*>(args.x) + task.first * strides.x_token, strides, *task.routes};
  const SumOutput<T> output{static_cast<T*>(args.y) + task.first * strides.y_token + task.head * strides.y_head,
                            strides.y_token};
  const SumPart part{0, task.tokens, task.head, task.heads, task.panel, task.panels};
  ExpertSum<T, TokenRows<T>, PackedMatrices>(matrices, rows, output, part).run();
}

void sum_packed(const QuantizedExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task) {
  cpu::with_element(args.type, [&](auto element) { sum_packed_part<decltype(element)>(args, strides, task); });
}

std::size_t packed_panel_count(std::size_t columns) { return ExpertPanels(columns).count; }

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(sum_packed);
HWY_EXPORT(packed_panel_count);

namespace {

void run(const QuantizedExpertMatMulArgs& args, const ExpertStrides& strides, std::int64_t separate_heads,
         const ParallelFor& parallel_for) {
  if (args.batch * args.length * args.outputs * separate_heads == 0) return;
  const std::size_t panels = HWY_DYNAMIC_DISPATCH(packed_panel_count)(static_cast<std::size_t>(args.outputs));
  const ExpertSplit split(args.batch * args.length, args.heads, static_cast<std::int64_t>(panels), separate_heads);
  const cpu::Router router{args.logits, args.heads, args.experts, args.active};
  split.run(router, parallel_for,
            [&](const ExpertTask& task) { HWY_DYNAMIC_DISPATCH(sum_packed)(args, strides, task); });
}

}  // namespace

void quantized_expert_matmul(const QuantizedExpertMatMulArgs& args, const ParallelFor& parallel_for) {
  run(args, {args.inputs, 0, args.heads * args.outputs, args.outputs}, args.heads, parallel_for);
}

void quantized_expert_matmul_sum(const QuantizedExpertMatMulArgs& args, const ParallelFor& parallel_for) {
  run(args, {args.heads * args.inputs, args.inputs, args.outputs, 0}, 1, parallel_for);
}

}  // namespace hsm
#endif  // HWY_ONCE
