// A few tokens: each pass over the state, in place if the caller likes, takes in up to kStepTokens of them, or one by
// the delta rule, and answers their queries on the way.
#if defined(HSM_DECAYED_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_DECAYED_STEP_INL_H_
#undef HSM_DECAYED_STEP_INL_H_
#else
#define HSM_DECAYED_STEP_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/decayed_linear_attention/head-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Tokens of one pass, and of one loan of scratch.
inline constexpr std::size_t kStepTokens = 4;
inline constexpr std::size_t kStepBatch = 4 * kStepTokens;
// Vectors of columns that a pass holds in registers.
inline constexpr std::size_t kStepVectors = 4;
inline constexpr std::size_t kStepTokensVectors = kAccumulators / 12;

// Rows of the tokens of a batch, padded to whole vectors.
struct StepScratch {
  StepScratch(std::size_t key_dim, std::size_t value_dim)
      : rows(round_up(key_dim, hn::Lanes(FloatTag()))),
        columns(round_up(value_dim, hn::Lanes(FloatTag()))),
        buffers({rows * kStepBatch, rows * kStepBatch, rows * kStepBatch, rows * (kStepBatch + 1), rows * kStepBatch,
                 columns * kStepBatch, columns * kStepBatch, columns}) {}

  std::size_t rows;
  std::size_t columns;
  cpu::ScratchBuffers<8> buffers;
  float* decays = buffers[0];  // (kStepBatch, rows)
  float* q = buffers[1];
  float* k = buffers[2];
  float* a = buffers[3];  // and one row of zeros more
  float* b = buffers[4];
  float* v = buffers[5];  // (kStepBatch, columns)
  float* y = buffers[6];
  float* read = buffers[7];  // what a reads before the next token, (columns)
};

// kVectors vectors of columns, or the first `count` columns of one.
template <std::size_t kVectors, bool kPartial>
struct Columns {
  HWY_INLINE FloatVec load(const float* from, std::size_t v) const {
    const FloatTag tag;
    if constexpr (kPartial) return hn::LoadN(tag, from, count);
    return hn::LoadU(tag, from + v * hn::Lanes(tag));
  }
  HWY_INLINE void store(FloatVec value, float* to, std::size_t v) const {
    const FloatTag tag;
    if constexpr (kPartial) return hn::StoreN(value, tag, to, count);
    hn::StoreU(value, tag, to + v * hn::Lanes(tag));
  }

  std::size_t count;
};

// kTokens tokens, from token `first` of the scratch on, for columns of the state whose first is at `from` and `to`;
// `column` is their place in the scratch's rows.
template <std::size_t kTokens, std::size_t kVectors, bool kPartial, bool kExclusive>
HWY_NOINLINE void step_columns(const StepScratch& s, std::size_t first, std::size_t key_dim, std::size_t stride,
                               std::size_t column, std::size_t count, const float* from, float* to) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const Columns<kVectors, kPartial> columns{count};
  FloatVec value[kTokens][kVectors], y[kTokens][kVectors];
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      value[t][v] = hn::LoadU(tag, s.v + (first + t) * s.columns + column + v * lanes);
      y[t][v] = hn::Zero(tag);
    }
  }
  const float* HWY_RESTRICT decays = s.decays + first * s.rows;
  const float* HWY_RESTRICT queries = s.q + first * s.rows;
  const float* HWY_RESTRICT keys = s.k + first * s.rows;
  for (std::size_t i = 0; i < key_dim; ++i) {
    FloatVec row[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) row[v] = columns.load(from + i * stride, v);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const FloatVec decay = hn::Set(tag, decays[t * s.rows + i]);
      const FloatVec key = hn::Set(tag, keys[t * s.rows + i]);
      const FloatVec query = hn::Set(tag, queries[t * s.rows + i]);
      for (std::size_t v = 0; v < kVectors; ++v) {
        if constexpr (kExclusive) y[t][v] = hn::MulAdd(query, row[v], y[t][v]);
        row[v] = hn::MulAdd(key, value[t][v], hn::Mul(decay, row[v]));
        if constexpr (!kExclusive) y[t][v] = hn::MulAdd(query, row[v], y[t][v]);
      }
    }
    for (std::size_t v = 0; v < kVectors; ++v) columns.store(row[v], to + i * stride, v);
  }
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(y[t][v], tag, s.y + (first + t) * s.columns + column + v * lanes);
    }
  }
}

// One token by the delta rule, and what the next token's a reads: the row of a after this token's. Before the first
// token there is nothing to take in.
template <std::size_t kVectors, bool kPartial, bool kFirst>
HWY_NOINLINE void delta_columns(const StepScratch& s, std::size_t token, std::size_t key_dim, std::size_t stride,
                                std::size_t column, std::size_t count, const float* from, float* to) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const Columns<kVectors, kPartial> columns{count};
  FloatVec value[kVectors], read[kVectors], y[kVectors], next[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    value[v] = hn::LoadU(tag, s.v + token * s.columns + column + v * lanes);
    read[v] = hn::LoadU(tag, s.read + column + v * lanes);
    y[v] = next[v] = hn::Zero(tag);
  }
  const std::size_t at = token * s.rows;
  const float* HWY_RESTRICT readers = s.a + (kFirst ? at : at + s.rows);
  for (std::size_t i = 0; i < key_dim; ++i) {
    const FloatVec reader = hn::Set(tag, readers[i]);
    for (std::size_t v = 0; v < kVectors; ++v) {
      FloatVec row = columns.load(from + i * stride, v);
      if constexpr (!kFirst) {
        const FloatVec kept = hn::Mul(hn::Set(tag, s.decays[at + i]), row);
        const FloatVec written = hn::MulAdd(hn::Set(tag, s.b[at + i]), read[v], kept);
        row = hn::MulAdd(hn::Set(tag, s.k[at + i]), value[v], written);
        y[v] = hn::MulAdd(hn::Set(tag, s.q[at + i]), row, y[v]);
        columns.store(row, to + i * stride, v);
      }
      next[v] = hn::MulAdd(reader, row, next[v]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    if constexpr (!kFirst) hn::StoreU(y[v], tag, s.y + token * s.columns + column + v * lanes);
    hn::StoreU(next[v], tag, s.read + column + v * lanes);
  }
}

// Calls pass(vectors, whether partial, first column, columns) for all columns, kVectors vectors at a time.
template <std::size_t kVectors, typename Pass>
void for_columns(std::size_t width, Pass pass) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  std::size_t column = 0;
  for (; column + kVectors * lanes <= width; column += kVectors * lanes) {
    pass(std::integral_constant<std::size_t, kVectors>(), std::false_type(), column, kVectors * lanes);
  }
  for (; column + lanes <= width; column += lanes) {
    pass(std::integral_constant<std::size_t, 1>(), std::false_type(), column, lanes);
  }
  if (column < width) pass(std::integral_constant<std::size_t, 1>(), std::true_type(), column, width - column);
}

// kTokens tokens of a batch.
template <std::size_t kTokens, typename T>
void step_tokens(const DecayedHead<T>& head, const StepScratch& s, std::size_t first, const float* state) {
  constexpr std::size_t kVectors = kTokens == 1 ? kStepVectors : kStepTokensVectors;
  for_columns<kVectors>(head.value_dim, [&](auto vectors, auto partial, std::size_t column, std::size_t count) {
    const auto step = head.exclusive ? step_columns<kTokens, decltype(vectors)::value, decltype(partial)::value, true>
                                     : step_columns<kTokens, decltype(vectors)::value, decltype(partial)::value, false>;
    step(s, first, head.key_dim, head.value_dim, column, count, state + column, head.state_out + column);
  });
}

// The tokens of a batch by the delta rule, for one part of the columns after the other: it stays in the first cache.
template <typename T>
void step_delta(const DecayedHead<T>& head, const StepScratch& s, std::size_t tokens, const float* state) {
  for_columns<kStepVectors>(head.value_dim, [&](auto vectors, auto partial, std::size_t column, std::size_t count) {
    const auto pass = [&](auto first, std::size_t token, const float* from) {
      delta_columns<decltype(vectors)::value, decltype(partial)::value, decltype(first)::value>(
          s, token, head.key_dim, head.value_dim, column, count, from + column, head.state_out + column);
    };
    pass(std::true_type(), 0, state);
    for (std::size_t t = 0; t < tokens; ++t) pass(std::false_type(), t, t == 0 ? state : head.state_out);
  });
}

// Reads a batch of tokens.
template <typename T>
void load_batch(const DecayedHead<T>& head, std::size_t first, std::size_t tokens, const StepScratch& s) {
  const std::size_t at = first * head.key_stride();
  decay_rows(head, first, tokens, s.rows, s.decays);
  pack_rows(head.q + at, head.key_stride(), tokens, head.key_dim, s.rows, s.q);
  pack_rows(head.k + at, head.key_stride(), tokens, head.key_dim, s.rows, s.k);
  pack_rows(head.v + first * head.value_stride(), head.value_stride(), tokens, head.value_dim, s.columns, s.v);
  if (head.a == nullptr) return;
  pack_rows(head.a + at, head.key_stride(), tokens, head.key_dim, s.rows, s.a);
  std::fill_n(s.a + tokens * s.rows, s.rows, 0.0f);
  pack_rows(head.b + at, head.key_stride(), tokens, head.key_dim, s.rows, s.b);
}

// All tokens of a head.
template <typename T>
void scan_steps(const DecayedHead<T>& head, const StepScratch& s) {
  const float* state = head.state;
  for (std::size_t first = 0; first < head.length; first += kStepBatch) {
    const std::size_t tokens = std::min(kStepBatch, head.length - first);
    load_batch(head, first, tokens, s);
    prefetch_tokens(head, first + tokens, kStepBatch);
    std::size_t t = 0;
    if (head.a != nullptr) {
      step_delta(head, s, tokens, state);
      state = head.state_out;
      t = tokens;
    }
    for (; t + kStepTokens <= tokens; t += kStepTokens, state = head.state_out) {
      step_tokens<kStepTokens>(head, s, t, state);
    }
    for (; t < tokens; ++t, state = head.state_out) step_tokens<1>(head, s, t, state);
    for (t = 0; t < tokens; ++t) {
      from_floats(s.y + t * s.columns, head.value_dim, head.y + (first + t) * head.value_stride());
    }
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_DECAYED_STEP_INL_H_
