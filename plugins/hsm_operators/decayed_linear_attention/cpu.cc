#include <algorithm>
#include <cstddef>

#include "hsm_operators/decayed_linear_attention/args.gen.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/decayed_linear_attention/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/decayed_linear_attention/chunk-inl.h"
#include "hsm_operators/decayed_linear_attention/narrow-inl.h"
#include "hsm_operators/decayed_linear_attention/step-inl.h"

#ifndef HSM_DECAYED_LINEAR_ATTENTION_CC_
#define HSM_DECAYED_LINEAR_ATTENTION_CC_
namespace hsm {
namespace {

// Columns of the value width that are a task of their own.
constexpr std::size_t kTaskColumns = 128;
// Numbers of states that are a task together: of heads of key or value width 1, as many as lie in the first-level
// cache.
constexpr std::size_t kTaskStates = 1 << 14;
constexpr std::size_t kTaskNarrowStates = 1 << 11;
// Chunks are quicker than passes over the state in place from this key width on, and for more tokens than these;
// measured.
constexpr std::size_t kChunkKeys = 64;
constexpr std::size_t kFewTokens = 32;
constexpr std::size_t kFewDeltaTokens = 8;

// How a call is split, by its shape alone.
struct Tasks {
  // `few_columns`: by the delta rule, chunks are quicker for more columns than these.
  Tasks(const DecayedLinearAttentionArgs& args, std::size_t few_columns)
      : rows(static_cast<std::size_t>(args.batch)), heads(static_cast<std::size_t>(args.heads)) {
    const auto keys = static_cast<std::size_t>(args.key_dim), values = static_cast<std::size_t>(args.value_dim);
    narrow = keys == 1 || values == 1;
    const std::size_t few = args.a == nullptr ? kFewTokens : kFewDeltaTokens;
    chunks = !narrow && keys >= kChunkKeys && (args.a == nullptr || values > few_columns) &&
             static_cast<std::size_t>(args.length) > few;
    if (chunks) tiles = (values + kTaskColumns - 1) / kTaskColumns;
    // Numbers of a head's states, or of all that its tokens make of them: a prompt's heads are not one task.
    const std::size_t numbers = keys * values * (narrow ? 1 : std::max<std::size_t>(args.length, 1));
    if (!chunks) group = std::max<std::size_t>((narrow ? kTaskNarrowStates : kTaskStates) / numbers, 1);
    groups = (heads + group - 1) / group;
  }

  std::size_t count() const { return rows * groups * tiles; }

  std::size_t rows;
  std::size_t heads;
  bool narrow;            // key or value width 1
  bool chunks;            // rows may be long enough for chunks
  std::size_t group = 1;  // heads of a task
  std::size_t groups;     // of each row
  std::size_t tiles = 1;  // of each head's columns
};

}  // namespace
}  // namespace hsm
#endif  // HSM_DECAYED_LINEAR_ATTENTION_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Measured: with 32 registers, passes over the state of 64 columns are 15 to 30 % quicker than chunks, with 16 a fifth
// slower.
std::size_t few_columns() { return kAccumulators > 12 ? 64 : 0; }

// Columns [begin, end) of one head whose tokens may be many.
template <typename T>
void scan_columns(const DecayedHead<T>& head, std::size_t begin, std::size_t end) {
  if (head.length == 0) {
    for (std::size_t i = 0; i < head.key_dim && head.state != head.state_out; ++i) {
      const std::size_t at = i * head.value_dim;
      std::copy(head.state + at + begin, head.state + at + end, head.state_out + at + begin);
    }
  } else if (head.a != nullptr) {
    scan_chunks<true>(head, begin, end);
  } else {
    scan_chunks<false>(head, begin, end);
  }
}

// Heads [begin, end) of one row.
template <typename T>
void scan_heads(const DecayedLinearAttentionArgs& args, std::int64_t begin, std::int64_t end) {
  const std::size_t keys = static_cast<std::size_t>(args.key_dim), values = static_cast<std::size_t>(args.value_dim);
  StepScratch s(keys, values);
  for (std::int64_t index = begin; index < end; ++index) {
    const DecayedHead<T> head(args, index);
    if (head.length == 0) {
      if (head.state != head.state_out) std::copy_n(head.state, keys * values, head.state_out);
    } else {
      scan_steps(head, s);
    }
  }
}

void scan_task(const DecayedLinearAttentionArgs& args, const Tasks& tasks, std::size_t task) {
  const std::size_t row = task / tasks.tiles / tasks.groups;
  const std::size_t first = task / tasks.tiles % tasks.groups * tasks.group;
  const std::size_t count = std::min(tasks.group, tasks.heads - first);
  const auto head = static_cast<std::int64_t>(row * tasks.heads + first);
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    if (tasks.narrow) return scan_narrow(DecayedHead<T>(args, head), count);
    if (!tasks.chunks) return scan_heads<T>(args, head, head + static_cast<std::int64_t>(count));
    const std::size_t values = static_cast<std::size_t>(args.value_dim), tile = task % tasks.tiles;
    const auto border = [&](std::size_t i) { return std::min(round_up(values * i / tasks.tiles, 16), values); };
    scan_columns(DecayedHead<T>(args, head), border(tile), border(tile + 1));
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(scan_task);
HWY_EXPORT(few_columns);

namespace {

// Numbers of the state times tokens that one thread handles about as quickly as it hands work to others.
constexpr double kSmall = 1 << 16;
const ParallelFor kSerial;

bool is_small(const DecayedLinearAttentionArgs& args) {
  const auto state = static_cast<double>(args.batch * args.heads * args.key_dim * args.value_dim);
  return state * static_cast<double>(args.length) < kSmall;
}

}  // namespace

void decayed_linear_attention(const DecayedLinearAttentionArgs& args, const ParallelFor& pool) {
  if (args.key_dim == 0 || args.value_dim == 0) return;
  const Tasks tasks(args, HWY_DYNAMIC_DISPATCH(few_columns)());
  const ParallelFor& parallel_for = is_small(args) ? kSerial : pool;
  parallel_for(tasks.count(), [&](std::size_t task) { HWY_DYNAMIC_DISPATCH(scan_task)(args, tasks, task); });
}

void decayed_delta_rule(const DecayedLinearAttentionArgs& args, const ParallelFor& pool) {
  decayed_linear_attention(args, pool);
}

}  // namespace hsm
#endif  // HWY_ONCE
