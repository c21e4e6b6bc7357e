#include "hsm_operators/expert_matmul/args.gen.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/expert_matmul/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/aligned_allocator.h"
#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/expert_matmul/expert_routing.h"
#include "hsm_operators/expert_matmul/expert_split.h"
#include "hsm_operators/expert_matmul/expert_sum-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

template <typename T>
void sum_part(const ExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task) {
  const ExpertMatrices<T> matrices{.weight = static_cast<const T*>(args.weight),
                                   .packed = args.packed,
                                   .experts = args.experts,
                                   .inputs = static_cast<std::size_t>(args.inputs),
                                   .outputs = static_cast<std::size_t>(args.outputs)};
  const TokenRows<T> rows{static_cast<const T*>(args.x) + task.first * strides.x_token, strides, *task.routes};
  const SumOutput<T> output{static_cast<T*>(args.y) + task.first * strides.y_token + task.head * strides.y_head,
                            strides.y_token};
  const SumPart part{0, task.tokens, task.head, task.heads, task.panel, task.panels};
  ExpertSum<T, TokenRows<T>>(matrices, rows, output, part).run();
}

void sum_experts(const ExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task) {
  cpu::with_element(args.type, [&](auto element) { sum_part<decltype(element)>(args, strides, task); });
}

std::size_t panel_count(std::size_t columns) { return ExpertPanels(columns).count; }

std::size_t padded_columns_of(std::size_t columns) { return ExpertPanels(columns).padded(); }

void pack_matrix(DType type, const void* weight, std::size_t index, std::size_t inputs, std::size_t outputs,
                 float* to) {
  cpu::with_element(type, [&](auto element) {
    using T = decltype(element);
    const ExpertMatrix<T> matrix{static_cast<const T*>(weight) + index * inputs * outputs, inputs, outputs};
    const ExpertPanels panels(outputs);
    for (std::size_t p = 0; p < panels.count; ++p) {
      pack_panel(matrix, panels, p, 0, inputs, to + panels.begin(p) * inputs);
    }
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(sum_experts);
HWY_EXPORT(panel_count);
HWY_EXPORT(padded_columns_of);
HWY_EXPORT(pack_matrix);

namespace {

void run(const ExpertMatMulArgs& args, const ExpertStrides& strides, std::int64_t separate_heads,
         const ParallelFor& parallel_for) {
  if (args.batch * args.length * args.outputs * separate_heads == 0) return;
  const std::size_t panels = HWY_DYNAMIC_DISPATCH(panel_count)(static_cast<std::size_t>(args.outputs));
  const ExpertSplit split(args.batch * args.length, args.heads, static_cast<std::int64_t>(panels), separate_heads);
  const cpu::Router router{args.logits, args.heads, args.experts, args.active};
  split.run(router, parallel_for,
            [&](const ExpertTask& task) { HWY_DYNAMIC_DISPATCH(sum_experts)(args, strides, task); });
}

}  // namespace

void expert_matmul(const ExpertMatMulArgs& args, const ParallelFor& parallel_for) {
  run(args, {args.inputs, 0, args.heads * args.outputs, args.outputs}, args.heads, parallel_for);
}

void expert_matmul_sum(const ExpertMatMulArgs& args, const ParallelFor& parallel_for) {
  run(args, {args.heads * args.inputs, args.inputs, args.outputs, 0}, 1, parallel_for);
}

std::size_t packed_count(const ExpertMatMulArgs& args) {
  return static_cast<std::size_t>(args.heads * args.experts * args.inputs) *
         HWY_DYNAMIC_DISPATCH(padded_columns_of)(static_cast<std::size_t>(args.outputs));
}

Packed pack_constant(const ExpertMatMulArgs& args) {
  const auto matrices = static_cast<std::size_t>(args.heads * args.experts);
  const auto inputs = static_cast<std::size_t>(args.inputs);
  const auto outputs = static_cast<std::size_t>(args.outputs);
  const std::size_t count = packed_count(args);
  const std::size_t size = matrices == 0 ? 0 : count / matrices;
  hwy::AlignedFreeUniquePtr<float[]> packed = hwy::AllocateAligned<float>(std::max<std::size_t>(count, 1));
  if (packed == nullptr) throw std::bad_alloc();
  for (std::size_t index = 0; index < matrices; ++index) {
    HWY_DYNAMIC_DISPATCH(pack_matrix)(args.type, args.weight, index, inputs, outputs, packed.get() + index * size);
  }
  return packed;
}

}  // namespace hsm
#endif  // HWY_ONCE
