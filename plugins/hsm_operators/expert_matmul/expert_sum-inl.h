// Sums of the gated products of many experts, for a block of rows and a range of columns: what the operators with
// experts share.
#if defined(HSM_EXPERT_SUM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_EXPERT_SUM_INL_H_
#undef HSM_EXPERT_SUM_INL_H_
#else
#define HSM_EXPERT_SUM_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/stream-inl.h"
#include "hsm_operators/expert_matmul/expert_routing.h"
#include "hsm_operators/expert_matmul/expert_split.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Rows of a weight panel that are packed and multiplied at a time: they stay in the caches near the core.
inline constexpr std::size_t kDepth = 256;
// Tokens of one expert up to which its weights are not worth packing; measured.
inline constexpr std::size_t kFewRows = 48;

// The columns of a matrix, padded to whole vectors and split evenly into panels of at most kMaxColumnVectors vectors.
struct ExpertPanels {
  explicit ExpertPanels(std::size_t columns)
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
struct ExpertMatrix {
  const T* data;
  std::size_t inputs;
  std::size_t outputs;

  StridedColumns<T> columns(std::size_t first) const { return {data + first, outputs}; }
};

// Rows that are asked for ahead of their use: a panel is a narrow strip of the matrix, which no hardware prefetcher
// follows.
inline constexpr std::size_t kAhead = 12;
template <typename T>
inline constexpr std::size_t kLineElements = 64 / sizeof(T);

// Converts rows begin..begin+depth-1 of one panel to floats: (depth, width). What a padding column holds is not
// specified.
template <typename T>
void pack_panel(const ExpertMatrix<T>& matrix, const ExpertPanels& panels, std::size_t panel, std::size_t begin,
                std::size_t depth, float* to) {
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

// All experts' matrices (heads,experts,inputs,outputs).
template <typename T>
struct ExpertMatrices {
  const T* weight;
  const float* packed;  // all panels of all matrices, or null
  std::int64_t experts;
  std::size_t inputs;
  std::size_t outputs;

  ExpertMatrix<T> matrix(std::int64_t index) const {
    return {weight + static_cast<std::size_t>(index) * inputs * outputs, inputs, outputs};
  }

  // All panels of one matrix, or null; a row of them has `columns`.
  const float* panels(std::int64_t index, std::size_t columns) const {
    return packed == nullptr ? nullptr : packed + static_cast<std::size_t>(index) * inputs * columns;
  }
};

// Rows of x, which are `strides` apart.
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

// The part of a sum that a task computes.
struct SumPart {
  std::int64_t first;  // token, as the groups count them
  std::int64_t tokens;
  std::int64_t head;
  std::int64_t heads;
  std::size_t panel;
  std::size_t panels;
};

// The rows of y by token, of which the part's columns are written.
template <typename T>
struct SumOutput {
  T* y;
  std::int64_t y_token;
};

// Runs one part. `Rows` says which of the part's tokens chose what, and where their rows are:
//
//   Group group(head, expert);  const Row* row(head, group, index);
//
// `Matrices` are those of all experts, in any form for which there are `pack_panel` and `stream_block`.
template <typename T, typename Rows, typename Matrices = ExpertMatrices<T>>
class ExpertSum {
 public:
  ExpertSum(const Matrices& matrices, const Rows& rows, const SumOutput<T>& output, const SumPart& part)
      : matrices_(matrices),
        source_(rows),
        output_(output),
        part_(part),
        panels_(matrices.outputs),
        begin_(panels_.begin(part.panel)),
        // One vector more, so that not all rows fall into the same few lines of the first-level cache.
        stride_(panels_.begin(part.panel + part.panels) - begin_ + panels_.lanes),
        columns_(std::min(stride_ - panels_.lanes, matrices.outputs - begin_)) {
    const auto tokens = static_cast<std::size_t>(part.tokens);
    const std::size_t few = std::min(tokens, kFewRows);
    sums_ = cpu::lend_scratch(tokens * stride_);
    product_ = cpu::lend_scratch(few * stride_);
    if (!kIsFloat) converted_ = cpu::lend_scratch(std::max(tokens * std::min(kDepth, inputs()), few * inputs()));
    rows_.resize(tokens);
    targets_.resize(tokens);
  }

  void run() {
    std::fill_n(sums_.get(), static_cast<std::size_t>(part_.tokens) * stride_, 0.0f);
    for (std::int64_t h = part_.head; h < part_.head + part_.heads; ++h) {
      for (std::int64_t e = 0; e < matrices_.experts; ++e) add_expert(h, e, source_.group(h, e));
    }
    write();
  }

 private:
  using Matrix = decltype(std::declval<const Matrices&>().matrix(0));
  using Row = std::remove_cvref_t<decltype(*std::declval<const Rows&>().row(0, cpu::Group{}, 0))>;
  static constexpr bool kIsFloat = std::is_same_v<Row, float>;

  std::size_t inputs() const { return matrices_.inputs; }

  void add_expert(std::int64_t head, std::int64_t expert, const cpu::Group& group) {
    if (group.tokens.empty() || inputs() == 0) return;
    const std::int64_t index = head * matrices_.experts + expert;
    const Matrix matrix = matrices_.matrix(index);
    if (group.tokens.size() <= kFewRows && columns_ >= panels_.lanes) {
      stream_expert(matrix, head, group);
      return;
    }
    for (std::size_t r = 0; r < group.tokens.size(); ++r) targets_[r] = row_of(group.tokens[r]);
    const float* packed = matrices_.panels(index, panels_.padded());
    for (std::size_t p = part_.panel; p < part_.panel + part_.panels; ++p) {
      multiply_panel(matrix, packed, p, head, group);
    }
  }

  // Many tokens: panel by panel, in slices of the inputs.
  void multiply_panel(const Matrix& matrix, const float* packed, std::size_t panel, std::int64_t head,
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
  void stream_expert(const Matrix& matrix, std::int64_t head, const cpu::Group& group) {
    gather(head, group, 0, inputs());
    stream(RowPointers{rows_.data()}, group.tokens.size(), matrix.columns(begin_), columns_, inputs(), product_.get(),
           stride_);
    add_product(group);
  }

  const float* pack_slice(const Matrix& matrix, std::size_t panel, std::size_t begin, std::size_t depth) {
    if (slice_ == nullptr) slice_ = cpu::lend_scratch(kDepth * panels_.widest());
    pack_panel(matrix, panels_, panel, begin, depth, slice_.get());
    return slice_.get();
  }

  // Points rows_ to elements begin..begin+depth-1 of each of the group's rows, as floats.
  void gather(std::int64_t head, const cpu::Group& group, std::size_t begin, std::size_t depth) {
    for (std::size_t r = 0; r < group.tokens.size(); ++r) {
      const Row* from = source_.row(head, group, r) + begin;
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

  float* row_of(std::int64_t token) const {
    return sums_.get() + static_cast<std::size_t>(token - part_.first) * stride_;
  }

  void write() const {
    for (std::int64_t t = part_.first; t < part_.first + part_.tokens; ++t) {
      from_floats(row_of(t), columns_, output_.y + t * output_.y_token + begin_);
    }
  }

  const Matrices& matrices_;
  const Rows& source_;
  const SumOutput<T>& output_;
  const SumPart& part_;
  ExpertPanels panels_;
  std::size_t begin_;               // first column of the part
  std::size_t stride_;              // of its sums
  std::size_t columns_;             // its columns
  cpu::Scratch sums_;               // (tokens, stride_)
  cpu::Scratch product_;            // of one expert with few tokens, before its gates
  cpu::Scratch slice_;              // packed weights (kDepth, panel width)
  cpu::Scratch converted_;          // rows when they are not float32
  std::vector<const float*> rows_;  // one for each token of the expert
  std::vector<float*> targets_;     // and of the sums
};

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_EXPERT_SUM_INL_H_
