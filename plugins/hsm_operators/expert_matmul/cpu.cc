#include "hsm_operators/expert_matmul/args.gen.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/expert_matmul/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/aligned_allocator.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/expert_matmul/expert_routing.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/stream-inl.h"

#ifndef HSM_EXPERT_MATMUL_CC_
#define HSM_EXPERT_MATMUL_CC_
namespace hsm {
namespace {

// Rows of a weight panel that are packed and multiplied at a time: they stay in the caches near the core.
constexpr std::size_t kDepth = 256;
// Tokens of one expert up to which its weights are not worth packing; measured.
constexpr std::size_t kFewRows = 48;

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

// The columns of a matrix, padded to whole vectors and split evenly into panels of at most kMaxColumnVectors vectors.
struct Panels {
  explicit Panels(std::size_t columns)
      : lanes(hn::Lanes(FloatTag())),
        vectors((columns + lanes - 1) / lanes),
        count((vectors + kMaxColumnVectors - 1) / kMaxColumnVectors) {}

  // Where a panel begins, in columns; panel `count` begins at the padded end.
  std::size_t begin(std::size_t panel) const { return vectors * panel / count * lanes; }
  std::size_t width(std::size_t panel) const { return begin(panel + 1) - begin(panel); }
  std::size_t padded() const { return vectors * lanes; }
  std::size_t widest() const { return std::min(vectors, kMaxColumnVectors) * lanes; }

  std::size_t lanes;
  std::size_t vectors;
  std::size_t count;
};

// One expert's matrix (inputs,outputs).
template <typename T>
struct Matrix {
  const T* data;
  std::size_t inputs;
  std::size_t outputs;
};

// Rows that are asked for ahead of their use: a panel is a narrow strip of the matrix, which no hardware prefetcher
// follows.
inline constexpr std::size_t kAhead = 12;
template <typename T>
inline constexpr std::size_t kLineElements = 64 / sizeof(T);

// Converts rows begin..begin+depth-1 of one panel to floats: (depth, width). What a padding column holds is not
// specified.
template <typename T>
void pack_panel(const Matrix<T>& matrix, const Panels& panels, std::size_t panel, std::size_t begin, std::size_t depth,
                float* to) {
  const FloatTag tag;
  const std::size_t column = panels.begin(panel);
  const std::size_t width = panels.width(panel);
  const T* end = matrix.data + matrix.inputs * matrix.outputs;
  for (std::size_t k = 0; k < depth; ++k, to += width) {
    const T* from = matrix.data + (begin + k) * matrix.outputs + column;
    if (static_cast<std::size_t>(end - from) >= kAhead * matrix.outputs + width) {
      for (std::size_t i = 0; i < width; i += kLineElements<T>) hwy::Prefetch(from + kAhead * matrix.outputs + i);
    }
    if (static_cast<std::size_t>(end - from) >= width) {
      // Padding is read from the next row: quicker than a remainder loop.
      for (std::size_t i = 0; i < width; i += panels.lanes) hn::Store(load_floats(tag, from + i), tag, to + i);
    } else {
      to_floats(from, static_cast<std::size_t>(end - from), to);
      std::fill(to + (end - from), to + width, 0.0f);
    }
  }
}

// Runs one task for one element type.
template <typename T>
class ExpertSum {
 public:
  ExpertSum(const ExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task)
      : args_(args),
        strides_(strides),
        task_(task),
        panels_(outputs()),
        begin_(panels_.begin(task.panel)),
        // One vector more, so that not all rows fall into the same few lines of the first-level cache.
        stride_(panels_.begin(task.panel + task.panels) - begin_ + panels_.lanes),
        columns_(std::min(stride_ - panels_.lanes, outputs() - begin_)) {
    const auto tokens = static_cast<std::size_t>(task.tokens);
    const std::size_t few = std::min(tokens, kFewRows);
    sums_ = cpu::lend_scratch(tokens * stride_);
    product_ = cpu::lend_scratch(few * stride_);
    if (!kIsFloat) converted_ = cpu::lend_scratch(std::max(tokens * std::min(kDepth, inputs()), few * inputs()));
    rows_.resize(tokens);
    targets_.resize(tokens);
  }

  void run() {
    std::fill_n(sums_.get(), static_cast<std::size_t>(task_.tokens) * stride_, 0.0f);
    for (std::int64_t h = task_.head; h < task_.head + task_.heads; ++h) {
      for (std::int64_t e = 0; e < args_.experts; ++e) add_expert(h, e, task_.routes->group(h, e));
    }
    write();
  }

 private:
  static constexpr bool kIsFloat = std::is_same_v<T, float>;

  std::size_t inputs() const { return static_cast<std::size_t>(args_.inputs); }
  std::size_t outputs() const { return static_cast<std::size_t>(args_.outputs); }

  void add_expert(std::int64_t head, std::int64_t expert, const cpu::Group& group) {
    if (group.tokens.empty() || inputs() == 0) return;
    const std::int64_t index = head * args_.experts + expert;
    const Matrix<T> matrix{static_cast<const T*>(args_.weight) + index * args_.inputs * args_.outputs, inputs(),
                           outputs()};
    if (group.tokens.size() <= kFewRows && columns_ >= panels_.lanes) {
      stream_expert(matrix, head, group);
      return;
    }
    for (std::size_t r = 0; r < group.tokens.size(); ++r) targets_[r] = row_of(group.tokens[r]);
    const float* packed = nullptr;
    if (args_.packed != nullptr) packed = args_.packed + static_cast<std::size_t>(index) * inputs() * panels_.padded();
    for (std::size_t p = task_.panel; p < task_.panel + task_.panels; ++p) {
      multiply_panel(matrix, packed, p, head, group);
    }
  }

  // Many tokens: panel by panel, in slices of the inputs.
  void multiply_panel(const Matrix<T>& matrix, const float* packed, std::size_t panel, std::int64_t head,
                      const cpu::Group& group) {
    const std::size_t width = panels_.width(panel);
    for (std::size_t begin = 0; begin < inputs(); begin += kDepth) {
      const std::size_t depth = std::min(kDepth, inputs() - begin);
      const float* slice = nullptr;
      if (packed != nullptr) {
        slice = packed + panels_.begin(panel) * inputs() + begin * width;
      } else {
        slice = pack_slice(matrix, panel, begin, depth);
      }
      gather(head, group, begin, depth);
      gemm(RowPointers{rows_.data()}, group.tokens.size(), slice, width, width, depth,
           GatedRows{targets_.data(), group.gates.data(), panels_.begin(panel) - begin_});
    }
  }

  // Few tokens: the matrix is read where it is.
  void stream_expert(const Matrix<T>& matrix, std::int64_t head, const cpu::Group& group) {
    gather(head, group, 0, inputs());
    stream(RowPointers{rows_.data()}, group.tokens.size(), matrix.data + begin_, outputs(), columns_, inputs(),
           product_.get(), stride_);
    add_product(group);
  }

  const float* pack_slice(const Matrix<T>& matrix, std::size_t panel, std::size_t begin, std::size_t depth) {
    if (slice_ == nullptr) slice_ = cpu::lend_scratch(kDepth * panels_.widest());
    pack_panel(matrix, panels_, panel, begin, depth, slice_.get());
    return slice_.get();
  }

  // Points rows_ to elements begin..begin+depth-1 of each of the group's rows of x, as floats.
  void gather(std::int64_t head, const cpu::Group& group, std::size_t begin, std::size_t depth) {
    const T* x = static_cast<const T*>(args_.x) + task_.first * strides_.x_token + head * strides_.x_head;
    for (std::size_t r = 0; r < group.tokens.size(); ++r) {
      const T* from = x + group.tokens[r] * strides_.x_token + begin;
      if constexpr (kIsFloat) {
        rows_[r] = from;
      } else {
        float* to = converted_.get() + r * depth;
        to_floats(from, depth, to);
        rows_[r] = to;
      }
    }
  }

  // Adds the gated product to the sums.
  void add_product(const cpu::Group& group) {
    const FloatTag tag;
    for (std::size_t r = 0; r < group.tokens.size(); ++r) {
      const float* from = product_.get() + r * stride_;
      float* to = row_of(group.tokens[r]);
      const FloatVec gate = hn::Set(tag, group.gates[r]);
      // The last vector may reach into the padding, which nobody reads.
      for (std::size_t i = 0; i < columns_; i += panels_.lanes) {
        hn::Store(hn::MulAdd(gate, hn::Load(tag, from + i), hn::Load(tag, to + i)), tag, to + i);
      }
    }
  }

  float* row_of(std::int32_t token) const { return sums_.get() + static_cast<std::size_t>(token) * stride_; }

  void write() const {
    T* y = static_cast<T*>(args_.y) + task_.first * strides_.y_token + task_.head * strides_.y_head;
    for (std::int64_t t = 0; t < task_.tokens; ++t) {
      from_floats(row_of(static_cast<std::int32_t>(t)), columns_, y + t * strides_.y_token + begin_);
    }
  }

  const ExpertMatMulArgs& args_;
  const ExpertStrides& strides_;
  const ExpertTask& task_;
  Panels panels_;
  std::size_t begin_;               // first column of the task
  std::size_t stride_;              // of its sums
  std::size_t columns_;             // its columns
  cpu::Scratch sums_;               // (tokens, stride_)
  cpu::Scratch product_;            // of one expert with few tokens, before its gates
  cpu::Scratch slice_;              // packed weights (kDepth, panel width)
  cpu::Scratch converted_;          // rows of x when it is not float32
  std::vector<const float*> rows_;  // rows of x, one for each token of the expert
  std::vector<float*> targets_;     // and of the sums
};

void sum_experts(const ExpertMatMulArgs& args, const ExpertStrides& strides, const ExpertTask& task) {
  cpu::with_element(args.type, [&](auto element) { ExpertSum<decltype(element)>(args, strides, task).run(); });
}

std::size_t panel_count(std::size_t columns) { return Panels(columns).count; }

std::size_t padded_columns_of(std::size_t columns) { return Panels(columns).padded(); }

void pack_matrix(DType type, const void* weight, std::size_t index, std::size_t inputs, std::size_t outputs,
                 float* to) {
  cpu::with_element(type, [&](auto element) {
    using T = decltype(element);
    const Matrix<T> matrix{static_cast<const T*>(weight) + index * inputs * outputs, inputs, outputs};
    const Panels panels(outputs);
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
  std::vector<cpu::Routes> routes(static_cast<std::size_t>(split.blocks()));
  parallel_for(routes.size(), [&](std::size_t index) {
    const auto block = static_cast<std::int64_t>(index);
    routes[index] = cpu::Routes(args, split.first(block), split.tokens(block));
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
