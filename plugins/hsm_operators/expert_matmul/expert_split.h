// How a product with chosen experts is split into tasks: what the operators share whose heads stand side by side.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hsm_operators/common/types.h"
#include "hsm_operators/expert_matmul/expert_routing.h"

namespace hsm {

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

// Tokens of a block: many, so that each expert's share of them pays for packing its weights, but at least about this
// many tasks, so that threads find work.
inline constexpr std::int64_t kLargeBlock = 256;
inline constexpr std::int64_t kSmallBlock = 128;
inline constexpr std::int64_t kTasks = 16;
// Panels of a task: enough columns for long reads, few enough for its sums to stay in the second-level cache.
inline constexpr std::int64_t kPanels = 4;

// Splits one call by its shape alone. Heads that do not share an output are tasks of their own.
class ExpertSplit {
 public:
  ExpertSplit(std::int64_t tokens, std::int64_t heads, std::int64_t panels, std::int64_t separate_heads)
      : tokens_(tokens), heads_(heads), separate_heads_(separate_heads), panels_(panels) {
    block_ = tasks_of(kLargeBlock, panels_) >= kTasks ? kLargeBlock : kSmallBlock;
    groups_ = (panels_ + kPanels - 1) / kPanels;
    if (tokens_ >= kSmallBlock) groups_ = std::clamp(kTasks / tasks_of(block_, 1), groups_, panels_);
  }

  // Routes the tokens, then calls `sum` with every task.
  template <typename Sum>
  void run(const cpu::Router& router, const ParallelFor& parallel_for, const Sum& sum) const {
    std::vector<cpu::Routes> routes(static_cast<std::size_t>(blocks_of(block_)));
    parallel_for(routes.size(), [&](std::size_t index) {
      const auto block = static_cast<std::int64_t>(index);
      routes[index] = cpu::Routes(router, first(block), tokens(block));
    });
    parallel_for(static_cast<std::size_t>(tasks_of(block_, groups_)),
                 [&](std::size_t index) { sum(task(static_cast<std::int64_t>(index), routes)); });
  }

 private:
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

}  // namespace hsm
