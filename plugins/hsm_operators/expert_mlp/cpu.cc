// Two passes over a tile of tokens, sorted by expert: hidden units of every choice, then sums of their products. Each
// pass reads the weights of the experts that were chosen once for a tile, or once for a block of its tokens.
#include "hsm_operators/expert_mlp/args.gen.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/expert_mlp/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/expert_matmul/expert_routing.h"
#include "hsm_operators/expert_matmul/expert_sum-inl.h"
#include "hsm_operators/expert_mlp/activation-inl.h"

#ifndef HSM_EXPERT_MLP_CC_
#define HSM_EXPERT_MLP_CC_
namespace hsm {
namespace {

// Consecutive tokens, who chose what, and the hidden units of their choices, sorted by expert and token.
struct MlpTile {
  std::int64_t first;  // token
  std::int64_t tokens;
  cpu::Routes routes;
  float* hidden;  // (choices, stride)
  std::size_t stride;
};

// Some of the tokens that chose one expert, and a range of column panels.
struct MlpTask {
  std::int64_t expert;
  std::int64_t first;  // row of the expert's group; of the second pass, token of the tile
  std::int64_t count;
  std::size_t panel;
  std::size_t panels;
};

}  // namespace
}  // namespace hsm
#endif  // HSM_EXPERT_MLP_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// The hidden units of one task for one element type.
template <typename T>
class HiddenUnits {
 public:
  HiddenUnits(const ExpertMlpArgs& args, const MlpTile& tile, const MlpTask& task)
      : args_(args),
        tile_(tile),
        task_(task),
        panels_(static_cast<std::size_t>(args.hidden)),
        begin_(panels_.begin(task.panel)),
        columns_(std::min(panels_.begin(task.panel + task.panels), static_cast<std::size_t>(args.hidden)) - begin_),
        rows_(static_cast<std::size_t>(task.count)) {}

  void run() {
    if (inputs() == 0) {
      for (std::size_t r = 0; r < rows_.size(); ++r) std::fill_n(hidden(r), columns_, 0.0f);
    } else if (rows_.size() <= kFewRows && columns_ >= panels_.lanes) {
      stream_matrix();
    } else {
      multiply_slices();
    }
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      activate(hidden(r), columns_, static_cast<Activation>(args_.activation));
    }
  }

 private:
  std::size_t inputs() const { return static_cast<std::size_t>(args_.inputs); }

  ExpertMatrix<T> matrix() const {
    const auto outputs = static_cast<std::size_t>(args_.hidden);
    return {static_cast<const T*>(args_.up) + static_cast<std::size_t>(task_.expert) * inputs() * outputs, inputs(),
            outputs};
  }

  // Few tokens: the matrix is read where it is.
  void stream_matrix() {
    gather(0, inputs());
    stream(RowPointers{rows_.data()}, rows_.size(), matrix().columns(begin_), columns_, inputs(), hidden(0),
           tile_.stride);
  }

  // Many tokens: in slices of the inputs, panel by panel.
  void multiply_slices() {
    const cpu::Scratch packed = cpu::lend_scratch(kDepth * panels_.widest());
    for (std::size_t begin = 0; begin < inputs(); begin += kDepth) {
      const std::size_t depth = std::min(kDepth, inputs() - begin);
      gather(begin, depth);
      for (std::size_t p = task_.panel; p < task_.panel + task_.panels; ++p) {
        pack_panel(matrix(), panels_, p, begin, depth, packed.get());
        const std::size_t width = panels_.width(p);
        gemm(RowPointers{rows_.data()}, rows_.size(), packed.get(), width, width, depth,
             Product{hidden(0) + panels_.begin(p) - begin_, tile_.stride, begin > 0});
      }
    }
  }

  // Points rows_ to elements begin..begin+depth-1 of each of the rows of x, as floats.
  void gather(std::size_t begin, std::size_t depth) {
    const cpu::Group group = tile_.routes.group(0, task_.expert);
    const T* x = static_cast<const T*>(args_.x) + tile_.first * args_.inputs + begin;
    if (!std::is_same_v<T, float> && converted_ == nullptr) converted_ = cpu::lend_scratch(rows_.size() * depth);
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      const T* from = x + group.tokens[static_cast<std::size_t>(task_.first) + r] * args_.inputs;
      if constexpr (std::is_same_v<T, float>) {
        rows_[r] = from;
      } else {
        to_floats(from, depth, converted_.get() + r * depth);
        rows_[r] = converted_.get() + r * depth;
      }
    }
  }

  // The task's columns of one of its rows.
  float* hidden(std::size_t row) const {
    const std::size_t place = tile_.routes.group(0, task_.expert).first + static_cast<std::size_t>(task_.first) + row;
    return tile_.hidden + place * tile_.stride + begin_;
  }

  const ExpertMlpArgs& args_;
  const MlpTile& tile_;
  const MlpTask& task_;
  ExpertPanels panels_;
  std::size_t begin_;    // first column of the task
  std::size_t columns_;  // its columns
  std::vector<const float*> rows_;
  cpu::Scratch converted_;  // rows of x when it is not float32
};

// Rows of hidden units.
struct HiddenRows {
  const MlpTile& tile;
  const MlpTask& task;

  cpu::Group group(std::int64_t head, std::int64_t expert) const {
    return tile.routes.group(head, expert).between(task.first, task.first + task.count);
  }
  const float* row(std::int64_t /*head*/, const cpu::Group& group, std::size_t index) const {
    return tile.hidden + (group.first + index) * tile.stride;
  }
};

template <typename T>
void sum_hidden(const ExpertMlpArgs& args, const MlpTile& tile, const MlpTask& task) {
  const ExpertMatrices<T> matrices{.weight = static_cast<const T*>(args.down),
                                   .packed = nullptr,
                                   .experts = args.experts,
                                   .inputs = static_cast<std::size_t>(args.hidden),
                                   .outputs = static_cast<std::size_t>(args.outputs)};
  const HiddenRows rows{tile, task};
  const SumOutput<T> output{static_cast<T*>(args.y) + tile.first * args.outputs, args.outputs};
  const SumPart part{task.first, task.count, 0, 1, task.panel, task.panels};
  ExpertSum<T, HiddenRows>(matrices, rows, output, part).run();
}

void mlp_hidden(const ExpertMlpArgs& args, const MlpTile& tile, const MlpTask& task) {
  cpu::with_element(args.type, [&](auto element) { HiddenUnits<decltype(element)>(args, tile, task).run(); });
}

void mlp_sum(const ExpertMlpArgs& args, const MlpTile& tile, const MlpTask& task) {
  cpu::with_element(args.type, [&](auto element) { sum_hidden<decltype(element)>(args, tile, task); });
}

// Columns of a row of hidden units: one vector more than whole ones, so that not all rows fall into the same few lines
// of the first-level cache.
std::size_t mlp_stride(std::size_t hidden) { return ExpertPanels(hidden).padded() + ExpertPanels(hidden).lanes; }

std::size_t mlp_panels(std::size_t columns) { return ExpertPanels(columns).count; }

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(mlp_hidden);
HWY_EXPORT(mlp_sum);
HWY_EXPORT(mlp_stride);
HWY_EXPORT(mlp_panels);

namespace {

// Tokens of a tile: as many as give an expert this many rows on average, so that reading its weights pays; but not so
// many choices that their hidden units are much memory.
constexpr std::int64_t kTileRows = 48;
constexpr std::int64_t kLeastTile = 1024;
constexpr std::int64_t kMostChoices = 65536;
// Tokens whose choices one task makes.
constexpr std::int64_t kChoices = 64;
// Rows of an expert in one task.
constexpr std::int64_t kRows = 256;
// Tokens of a block of the second pass, for as many rows of an expert on average.
constexpr std::int64_t kBlockRows = 32;
constexpr std::int64_t kLeastBlock = 128;
constexpr std::int64_t kMostBlock = 1024;
// Tasks that there are at least about, so that threads find work, for many tokens and for less than a block of them.
constexpr std::int64_t kTasks = 16;
constexpr std::int64_t kFewTasks = 4;
// At most so many column panels in a task: enough for long reads, few enough for its sums to stay in the second-level
// cache.
constexpr std::int64_t kPanels = 4;

constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Tokens that give an expert `rows` rows on average.
std::int64_t tokens_for(const ExpertMlpArgs& args, std::int64_t rows) {
  return ceil_divide(rows * args.experts, args.active);
}

// Makes tasks of parts, each with all panels of `columns` columns, by splitting the panels: little when there are many
// parts anyway.
std::vector<MlpTask> split(const std::vector<MlpTask>& parts, const MlpTile& tile, std::int64_t columns) {
  const auto panels = static_cast<std::int64_t>(HWY_DYNAMIC_DISPATCH(mlp_panels)(static_cast<std::size_t>(columns)));
  const std::int64_t wanted = tile.tokens < kLeastBlock ? kFewTasks : kTasks;
  const auto count = std::max<std::int64_t>(1, std::ssize(parts));
  const std::int64_t groups = std::min(std::max(ceil_divide(panels, kPanels), ceil_divide(wanted, count)), panels);
  std::vector<MlpTask> tasks;
  for (const MlpTask& part : parts) {
    for (std::int64_t group = 0; group < groups; ++group) {
      tasks.push_back(part);
      tasks.back().panel = static_cast<std::size_t>(panels * group / groups);
      tasks.back().panels = static_cast<std::size_t>(panels * (group + 1) / groups) - tasks.back().panel;
    }
  }
  return tasks;
}

// The first pass: rows of one expert by panels.
std::vector<MlpTask> hidden_tasks(const ExpertMlpArgs& args, const MlpTile& tile) {
  std::vector<MlpTask> parts;
  for (std::int64_t expert = 0; expert < args.experts; ++expert) {
    const auto rows = static_cast<std::int64_t>(tile.routes.group(0, expert).tokens.size());
    for (std::int64_t first = 0; first < rows; first += kRows) {
      parts.push_back({expert, first, std::min(kRows, rows - first), 0, 0});
    }
  }
  return split(parts, tile, args.hidden);
}

// The second pass: blocks of tokens by panels.
std::vector<MlpTask> sum_tasks(const ExpertMlpArgs& args, const MlpTile& tile) {
  const std::int64_t block = std::clamp(tokens_for(args, kBlockRows), kLeastBlock, kMostBlock);
  std::vector<MlpTask> parts;
  for (std::int64_t first = 0; first < tile.tokens; first += block) {
    parts.push_back({0, first, std::min(block, tile.tokens - first), 0, 0});
  }
  return split(parts, tile, args.outputs);
}

cpu::Routes route(const ExpertMlpArgs& args, std::int64_t first, std::int64_t tokens, const ParallelFor& parallel_for) {
  const cpu::Router router{args.logits, 1, args.experts, args.active};
  std::vector<cpu::Choice> choices(static_cast<std::size_t>(tokens * args.active));
  parallel_for(static_cast<std::size_t>(ceil_divide(tokens, kChoices)), [&](std::size_t index) {
    const std::int64_t begin = static_cast<std::int64_t>(index) * kChoices;
    cpu::choose(router, first + begin, std::min(kChoices, tokens - begin), choices.data() + begin * args.active);
  });
  return {router, choices};
}

}  // namespace

void expert_mlp(const ExpertMlpArgs& args, const ParallelFor& parallel_for) {
  const std::int64_t tokens = args.batch * args.length;
  if (tokens * args.outputs == 0) return;
  const std::int64_t most =
      std::min(std::max(kLeastTile, tokens_for(args, kTileRows)), std::max(kLeastBlock, kMostChoices / args.active));
  for (std::int64_t first = 0; first < tokens; first += most) {
    const std::int64_t count = std::min(most, tokens - first);
    MlpTile tile{first, count, route(args, first, count, parallel_for), nullptr,
                 HWY_DYNAMIC_DISPATCH(mlp_stride)(static_cast<std::size_t>(args.hidden))};
    const cpu::Scratch hidden = cpu::lend_scratch(tile.routes.size() * tile.stride);
    tile.hidden = hidden.get();
    const auto run = [&](const std::vector<MlpTask>& tasks, auto&& task) {
      parallel_for(tasks.size(), [&](std::size_t index) { task(args, tile, tasks[index]); });
    };
    run(hidden_tasks(args, tile), HWY_DYNAMIC_DISPATCH(mlp_hidden));
    run(sum_tasks(args, tile), HWY_DYNAMIC_DISPATCH(mlp_sum));
  }
}

}  // namespace hsm
#endif  // HWY_ONCE
