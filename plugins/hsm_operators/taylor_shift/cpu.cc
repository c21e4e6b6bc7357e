#include "hsm_operators/taylor_shift/taylor_shift.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/taylor_shift/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/taylor_shift/taylor-inl.h"

#ifndef HSM_TAYLOR_SHIFT_CC_
#define HSM_TAYLOR_SHIFT_CC_
namespace hsm {
namespace {

// Tokens of a tile of queries and of keys. Multiples of every vector length.
constexpr std::size_t kQueryTile = 192;
constexpr std::size_t kKeyTile = 128;
// Queries whose scores against one tile of keys are in the first-level cache at once. A multiple of every vector
// length.
constexpr std::size_t kScoreQueries = 64;

// A range of tokens of one head.
struct Range {
  std::int64_t head;  // b * H + h
  std::size_t begin;
  std::size_t end;
};

// Sums over keys of one head: `sums` (F,columns) and `norm` (F).
struct Sums {
  float* sums;
  float* norm;
};

}  // namespace
}  // namespace hsm
#endif  // HSM_TAYLOR_SHIFT_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// One head of a call, typed.
template <typename T>
struct Head {
  Head(const TaylorShiftArgs& args, std::int64_t head)
      : dim(static_cast<std::size_t>(args.dim)),
        value_dim(static_cast<std::size_t>(args.value_dim)),
        stride(static_cast<std::size_t>(args.heads * args.dim)),
        value_stride(static_cast<std::size_t>(args.heads * args.value_dim)),
        key_columns(round_up(dim, hn::Lanes(FloatTag()))),
        columns(round_up(value_dim, hn::Lanes(FloatTag()))),
        normalize(args.normalize) {
    const std::int64_t b = head / args.heads;
    const std::int64_t h = head % args.heads;
    const std::int64_t row = b * args.length * args.heads + h;
    q = static_cast<const T*>(args.q) + row * args.dim;
    k = static_cast<const T*>(args.k) + row * args.dim;
    v = static_cast<const T*>(args.v) + row * args.value_dim;
    y = static_cast<T*>(args.y) + row * args.value_dim;
    keys = static_cast<std::size_t>(args.lengths == nullptr ? args.length : args.lengths[b]);
    temperature = normalize ? to_float(static_cast<const T*>(args.temperature)[h]) : 1.0f;
    scale = args.output_norm ? std::sqrt(static_cast<float>(keys) / static_cast<float>(dim)) : 1.0f;
  }

  std::size_t dim;
  std::size_t value_dim;
  std::size_t stride;        // elements between tokens, of queries and keys
  std::size_t value_stride;  // and of values and results
  std::size_t key_columns;   // dim, padded to whole vectors
  std::size_t columns;       // value_dim, padded to whole vectors
  bool normalize;
  const T* q;
  const T* k;
  const T* v;
  T* y;
  std::size_t keys;
  float temperature;
  float scale;
};

// Tiles that a task works on; nothing in here grows with the number of tokens.
struct Scratch {
  Scratch(std::size_t dim, std::size_t key_columns, std::size_t columns)
      : buffers({dim * kQueryTile, key_columns * kKeyTile, columns * kKeyTile,
                 std::max(kFeatureRows * kQueryTile, kScoreQueries * kKeyTile), columns * kQueryTile, kQueryTile,
                 kTransposed * dim}) {}

  cpu::ScratchBuffers<7> buffers;
  float* queries = buffers[0];  // (d, kQueryTile)
  float* keys = buffers[1];     // (d, kKeyTile), or (kKeyTile, key_columns) in the direct form
  float* values = buffers[2];   // (kKeyTile, columns)
  float* work = buffers[3];     // features or scores
  float* y = buffers[4];        // (kQueryTile, columns)
  float* den = buffers[5];      // (kQueryTile)
  float* rows = buffers[6];     // (kTransposed, d)
};

template <typename T>
void pack_queries(const Head<T>& head, std::size_t begin, std::size_t tokens, Scratch& scratch) {
  pack_transposed(head.q + begin * head.stride, head.stride, tokens, head.dim, head.normalize, head.temperature,
                  scratch.rows, scratch.queries, kQueryTile);
}

template <typename T>
void pack_keys(const Head<T>& head, std::size_t begin, std::size_t tokens, Scratch& scratch) {
  pack_transposed(head.k + begin * head.stride, head.stride, tokens, head.dim, head.normalize, 1.0f, scratch.rows,
                  scratch.keys, kKeyTile);
  pack_rows(head.v + begin * head.value_stride, head.value_stride, tokens, head.value_dim, head.columns,
            scratch.values);
}

// Scores are kept as (keys, queries): so only queries are transposed, once, and sums over keys need no shuffles.
template <typename T>
void direct_tile(const Head<T>& head, std::size_t begin, std::size_t tokens, Scratch& scratch) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  pack_queries(head, begin, tokens, scratch);
  std::fill_n(scratch.y, tokens * head.columns, 0.0f);
  std::fill_n(scratch.den, round_up(tokens, lanes), 0.0f);
  for (std::size_t first = 0; first < head.keys; first += kKeyTile) {
    const std::size_t keys = std::min(kKeyTile, head.keys - first);
    pack_rows(head.k + first * head.stride, head.stride, keys, head.dim, head.key_columns, scratch.keys);
    if (head.normalize) normalize_rows(scratch.keys, keys, head.key_columns);
    const RowMajor v = float_rows(head.v + first * head.value_stride, head.value_stride, keys, head.value_dim,
                                  head.columns, scratch.values);
    for (std::size_t n = 0; n < tokens; n += kScoreQueries) {
      const std::size_t queries = std::min(kScoreQueries, tokens - n);
      const std::size_t padded = round_up(queries, lanes);
      float* scores = scratch.work;
      gemm(RowMajor{scratch.keys, head.key_columns}, keys, scratch.queries + n, kQueryTile, padded, head.dim,
           Product{scores, kScoreQueries, false});
      taylor_weights<false>(scores, kScoreQueries, keys, padded, scratch.den + n);
      gemm(ColumnMajor{scores, kScoreQueries}, queries, v.data, v.stride, head.columns, keys,
           Product{scratch.y + n * head.columns, head.columns, true});
    }
  }
}

// Sums phi(k) [v | 1] over a range of keys.
template <typename T>
void sum_keys(const Head<T>& head, const Range& range, const Sums& out, Scratch& scratch) {
  const auto features = static_cast<std::size_t>(taylor_features(static_cast<std::int64_t>(head.dim)));
  std::fill_n(out.sums, features * head.columns, 0.0f);
  std::fill_n(out.norm, features, 0.0f);
  for (std::size_t first = range.begin; first < range.end; first += kKeyTile) {
    const std::size_t keys = std::min(kKeyTile, range.end - first);
    pack_keys(head, first, keys, scratch);
    out.norm[0] += static_cast<float>(keys);
    for (std::size_t t = 0; t < keys; ++t) {
      for (std::size_t i = 0; i < head.columns; ++i) out.sums[i] += scratch.values[t * head.columns + i];
    }
    accumulate_features(scratch.keys, kKeyTile, keys, head.dim, scratch.values, head.columns, features, scratch.work,
                        out.sums, out.norm);
  }
}

// Halves the squares' sums (delta = 0), which the query side counts with the weight 1/2.
inline void weight_sums(std::size_t dim, std::size_t columns, const Sums& total) {
  for (std::size_t i = (1 + dim) * columns; i < (1 + 2 * dim) * columns; ++i) total.sums[i] *= 0.5f;
  for (std::size_t i = 1 + dim; i < 1 + 2 * dim; ++i) total.norm[i] *= 0.5f;
}

template <typename T>
void efficient_tile(const Head<T>& head, std::size_t begin, std::size_t tokens, const Sums& total, Scratch& scratch) {
  const auto features = static_cast<std::size_t>(taylor_features(static_cast<std::int64_t>(head.dim)));
  pack_queries(head, begin, tokens, scratch);
  std::fill_n(scratch.y, tokens * head.columns, 0.0f);
  std::fill_n(scratch.den, round_up(tokens, hn::Lanes(FloatTag())), 0.0f);
  apply_features(scratch.queries, kQueryTile, tokens, head.dim, total.sums, total.norm, head.columns, features,
                 scratch.work, scratch.y, scratch.den);
  add_constant(total.sums, total.norm[0], tokens, head.columns, scratch.y, scratch.den);
}

template <typename T>
void write_tile(const Head<T>& head, std::size_t begin, std::size_t tokens, Scratch& scratch) {
  write_rows(scratch.y, head.columns, scratch.den, tokens, head.value_dim, head.scale,
             head.y + begin * head.value_stride, head.value_stride);
}

// Queries of one range, by the direct form.
void attend_direct(const TaylorShiftArgs& args, const Range& range) {
  cpu::with_element(args.type, [&](auto element) {
    const Head<decltype(element)> head(args, range.head);
    Scratch scratch(head.dim, head.key_columns, head.columns);
    for (std::size_t begin = range.begin; begin < range.end; begin += kQueryTile) {
      const std::size_t tokens = std::min(kQueryTile, range.end - begin);
      direct_tile(head, begin, tokens, scratch);
      write_tile(head, begin, tokens, scratch);
    }
  });
}

// Keys of one range, into sums.
void sum_range(const TaylorShiftArgs& args, const Range& range, const Sums& out) {
  cpu::with_element(args.type, [&](auto element) {
    const Head<decltype(element)> head(args, range.head);
    Scratch scratch(head.dim, head.key_columns, head.columns);
    sum_keys(head, Range{range.head, range.begin, std::min(range.end, head.keys)}, out, scratch);
  });
}

// Queries of one range, from the sums of all keys.
void apply_range(const TaylorShiftArgs& args, const Range& range, const Sums& total) {
  cpu::with_element(args.type, [&](auto element) {
    const Head<decltype(element)> head(args, range.head);
    Scratch scratch(head.dim, head.key_columns, head.columns);
    for (std::size_t begin = range.begin; begin < range.end; begin += kQueryTile) {
      const std::size_t tokens = std::min(kQueryTile, range.end - begin);
      efficient_tile(head, begin, tokens, total, scratch);
      write_tile(head, begin, tokens, scratch);
    }
  });
}

void apply_weights(std::size_t dim, std::size_t columns, const Sums& total) { weight_sums(dim, columns, total); }

std::size_t padded_columns(std::size_t width) { return round_up(width, hn::Lanes(FloatTag())); }

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(attend_direct);
HWY_EXPORT(sum_range);
HWY_EXPORT(apply_range);
HWY_EXPORT(apply_weights);
HWY_EXPORT(padded_columns);

namespace {

// Heads are independent. Few of them are split further, into ranges of tokens, so that about this many tasks exist.
constexpr std::int64_t kTasks = 32;
// Keys that a range must have before splitting pays for summing the partial sums.
constexpr std::int64_t kMinimumRange = 512;
// Queries that a range must have before splitting pays for packing the keys once more, in the direct form.
constexpr std::int64_t kMinimumQueries = 96;
// A range of queries is a multiple of every vector length.
constexpr std::int64_t kQueryUnit = 16;

std::int64_t split_count(std::int64_t heads, std::int64_t length, std::int64_t minimum) {
  return std::clamp<std::int64_t>(kTasks / std::max<std::int64_t>(heads, 1), 1,
                                  std::max<std::int64_t>(length / minimum, 1));
}

Range range_of(std::int64_t task, std::int64_t splits, std::int64_t length, std::int64_t unit) {
  const std::int64_t size = ((length + splits - 1) / splits + unit - 1) / unit * unit;
  const std::int64_t part = task % splits;
  return {task / splits, static_cast<std::size_t>(std::min(part * size, length)),
          static_cast<std::size_t>(std::min((part + 1) * size, length))};
}

// True when the direct form is expected to be quicker. Costs of one head, fitted to measurements at 11 head widths and
// 10 lengths each (benchmarks/taylor_auto_choice.py, docs/performance.md); the unit is about 10 ps on the machine
// that was measured, but only ratios matter. Products over value columns cost what the padded columns cost. Values were
// as wide as keys in those measurements; the terms that grow with the padded columns are those of values. Measured
// at seven other pairs, from 8 beside 64 to 64 beside 16, the choice takes at most 1.18 times as long as the better
// form.
bool prefers_direct(const TaylorShiftArgs& args) {
  const auto n = static_cast<double>(args.length);
  const auto d = static_cast<double>(args.dim);
  const auto e = static_cast<double>(args.value_dim);
  const auto columns =
      static_cast<double>(HWY_DYNAMIC_DISPATCH(padded_columns)(static_cast<std::size_t>(args.value_dim)));
  const double products = columns * static_cast<double>(taylor_features(args.dim));
  const double direct = n * n * (0.43 * d + 1.36 * columns + 6.4) + 1380 * n + 53000;
  const double efficient = n * (1.89 * products + 95.5 * (d + e) + 660) + 73000;
  return direct <= efficient;
}

// Flops that one thread does about as quickly as it hands work to others.
constexpr double kSmall = 1 << 20;
const ParallelFor kSerial;

bool is_small(const TaylorShiftArgs& args) {
  const auto elements = static_cast<double>(args.batch * args.heads * args.length * (args.dim + args.value_dim));
  return elements * static_cast<double>(args.length) * 2 < kSmall;
}

void direct(const TaylorShiftArgs& args, const ParallelFor& parallel_for) {
  const std::int64_t heads = args.batch * args.heads;
  const std::int64_t splits = split_count(heads, args.length, kMinimumQueries);
  parallel_for(static_cast<std::size_t>(heads * splits), [&](std::size_t task) {
    HWY_DYNAMIC_DISPATCH(attend_direct)(args,
                                        range_of(static_cast<std::int64_t>(task), splits, args.length, kQueryUnit));
  });
}

// Sums of one head and of the parts that it is split into.
class HeadSums {
 public:
  HeadSums(const TaylorShiftArgs& args, std::size_t parts)
      : columns_(HWY_DYNAMIC_DISPATCH(padded_columns)(static_cast<std::size_t>(args.value_dim))),
        features_(static_cast<std::size_t>(taylor_features(args.dim))),
        size_(features_ * (columns_ + 1)),
        data_(cpu::lend_scratch(size_ * parts)) {}

  std::size_t columns() const { return columns_; }

  Sums part(std::size_t index) const {
    float* start = data_.get() + index * size_;
    return {start, start + features_ * columns_};
  }

  // Adds parts begin+1..begin+count-1 to part `begin`, in their order: the same bits for any number of threads.
  void reduce(std::size_t begin, std::size_t count) const {
    float* total = data_.get() + begin * size_;
    for (std::size_t p = 1; p < count; ++p) {
      const float* part = total + p * size_;
      for (std::size_t i = 0; i < size_; ++i) total[i] += part[i];
    }
  }

 private:
  std::size_t columns_;
  std::size_t features_;
  std::size_t size_;
  cpu::Scratch data_;
};

// Many heads: each is one task that needs the sums of one head only.
void efficient_by_head(const TaylorShiftArgs& args, const ParallelFor& parallel_for) {
  const auto dim = static_cast<std::size_t>(args.dim);
  parallel_for(static_cast<std::size_t>(args.batch * args.heads), [&](std::size_t task) {
    const HeadSums sums(args, 1);
    const Range all{static_cast<std::int64_t>(task), 0, static_cast<std::size_t>(args.length)};
    HWY_DYNAMIC_DISPATCH(sum_range)(args, all, sums.part(0));
    HWY_DYNAMIC_DISPATCH(apply_weights)(dim, sums.columns(), sums.part(0));
    HWY_DYNAMIC_DISPATCH(apply_range)(args, all, sums.part(0));
  });
}

// Few heads: keys are summed in parts, the parts are added, then queries are handled in parts.
void efficient_by_part(const TaylorShiftArgs& args, std::int64_t splits, const ParallelFor& parallel_for) {
  const auto dim = static_cast<std::size_t>(args.dim);
  const auto heads = static_cast<std::size_t>(args.batch * args.heads);
  const auto parts = static_cast<std::size_t>(splits);
  const auto unit = static_cast<std::int64_t>(kQueryTile);
  const HeadSums sums(args, heads * parts);
  const auto range = [&](std::size_t task) {
    return range_of(static_cast<std::int64_t>(task), splits, args.length, unit);
  };
  parallel_for(heads * parts,
               [&](std::size_t task) { HWY_DYNAMIC_DISPATCH(sum_range)(args, range(task), sums.part(task)); });
  parallel_for(heads, [&](std::size_t head) {
    sums.reduce(head * parts, parts);
    HWY_DYNAMIC_DISPATCH(apply_weights)(dim, sums.columns(), sums.part(head * parts));
  });
  parallel_for(heads * parts, [&](std::size_t task) {
    HWY_DYNAMIC_DISPATCH(apply_range)(args, range(task), sums.part(task / parts * parts));
  });
}

}  // namespace

void taylor_shift(const TaylorShiftArgs& args, const ParallelFor& pool, TaylorForm form) {
  if (args.batch == 0 || args.heads == 0 || args.length == 0 || args.dim == 0 || args.value_dim == 0) return;
  const ParallelFor& parallel_for = is_small(args) ? kSerial : pool;
  if (form == TaylorForm::kDirect || (form == TaylorForm::kAuto && prefers_direct(args))) {
    return direct(args, parallel_for);
  }
  const std::int64_t splits = split_count(args.batch * args.heads, args.length, kMinimumRange);
  if (splits == 1) return efficient_by_head(args, parallel_for);
  efficient_by_part(args, splits, parallel_for);
}

void taylor_shift(const TaylorShiftArgs& args, const ParallelFor& parallel_for) {
  taylor_shift(args, parallel_for, TaylorForm::kAuto);
}

}  // namespace hsm
#endif  // HWY_ONCE
