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
#include "hsm_operators/expert_matmul/expert_sum-inl.h"

#ifndef HSM_EXPERT_MATMUL_CC_
#define HSM_EXPERT_MATMUL_CC_
namespace hsm {
namespace {

// What a task computes: the sum over its heads' experts, for a block of tokens and a range of column panels.
struct ExpertTask {
  std::int64_t first;  // token
  std::int64_t tokens;
  std::int64_t head;
  std::int64_t heads;
  std::size_t panel;
  std::size_t panels;
  const cpu::Routes* routes;
};

// Elements between tokens and heads: all that differs between the two operators.
struct ExpertStrides {
  std::int64_t x_token;
  std::int64_t x_head;
  std::int64_t y_token;
  std::int64_t y_head;
};

}  // namespace
}  // namespace hsm
#endif  // HSM_EXPERT_MATMUL_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Rows of x.
template <typename T>
struct TokenRows {
  const T* x;
  const ExpertStrides& strides;
  const cpu::Routes& routes;

  cpu::Group group(std::int64_t head, std::int64_t expert) const { return routes.group(head, expert); }
  const T* row(std::int64_t head, const cpu::Group& group, std::size_t index) const {
    return x + group.tokens[index] * strides.x_token + head * strides.x_head;
  }
};

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

// Tokens of a block: many, so that each expert's share of them pays for packing its weights, but at least about this
// many tasks, so that threads find work.
constexpr std::int64_t kLargeBlock = 256;
constexpr std::int64_t kSmallBlock = 128;
constexpr std::int64_t kTasks = 16;
// Panels of a task: enough columns for long reads, few enough for its sums to stay in the second-level cache.
constexpr std::int64_t kPanels = 4;

// Splits one call by its shape alone. Heads that do not share an output are tasks of their own.
class ExpertSplit {
 public:
  ExpertSplit(const ExpertMatMulArgs& args, std::int64_t separate_heads)
      : tokens_(args.batch * args.length),
        heads_(args.heads),
        separate_heads_(separate_heads),
        panels_(static_cast<std::int64_t>(HWY_DYNAMIC_DISPATCH(panel_count)(static_cast<std::size_t>(args.outputs)))) {
    block_ = tasks_of(kLargeBlock, panels_) >= kTasks ? kLargeBlock : kSmallBlock;
    groups_ = (panels_ + kPanels - 1) / kPanels;
    if (tokens_ >= kSmallBlock) groups_ = std::clamp(kTasks / tasks_of(block_, 1), groups_, panels_);
  }

  std::int64_t blocks() const { return blocks_of(block_); }
  std::int64_t tasks() const { return tasks_of(block_, groups_); }
  std::int64_t first(std::int64_t block) const { return block * block_; }
  std::int64_t tokens(std::int64_t block) const { return std::min(block_, tokens_ - first(block)); }

  // Neighbouring tasks share a block of tokens.
  ExpertTask task(std::int64_t index, const std::vector<cpu::Routes>& routes) const {
    const std::int64_t group = index % groups_;
    const std::int64_t head = index / groups_ % separate_heads_;
    const std::int64_t block = index / groups_ / separate_heads_;
    const std::int64_t panel = panels_ * group / groups_;
    return {.first = first(block),
            .tokens = tokens(block),
            .head = head,
            .heads = heads_ / separate_heads_,
            .panel = static_cast<std::size_t>(panel),
            .panels = static_cast<std::size_t>(panels_ * (group + 1) / groups_ - panel),
            .routes = &routes[static_cast<std::size_t>(block)]};
  }

 private:
  std::int64_t blocks_of(std::int64_t block) const { return (tokens_ + block - 1) / block; }
  std::int64_t tasks_of(std::int64_t block, std::int64_t groups) const {
    return blocks_of(block) * separate_heads_ * groups;
  }

  std::int64_t tokens_;
  std::int64_t heads_;
  std::int64_t separate_heads_;
  std::int64_t panels_;
  std::int64_t block_;
  std::int64_t groups_;
};

void run(const ExpertMatMulArgs& args, const ExpertStrides& strides, std::int64_t separate_heads,
         const ParallelFor& parallel_for) {
  if (args.batch * args.length * args.outputs * separate_heads == 0) return;
  const ExpertSplit split(args, separate_heads);
  const cpu::Router router{args.logits, args.heads, args.experts, args.active};
  std::vector<cpu::Routes> routes(static_cast<std::size_t>(split.blocks()));
  parallel_for(routes.size(), [&](std::size_t index) {
    const auto block = static_cast<std::int64_t>(index);
    routes[index] = cpu::Routes(router, split.first(block), split.tokens(block));
  });
  parallel_for(static_cast<std::size_t>(split.tasks()), [&](std::size_t index) {
    HWY_DYNAMIC_DISPATCH(sum_experts)(args, strides, split.task(static_cast<std::int64_t>(index), routes));
  });
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
