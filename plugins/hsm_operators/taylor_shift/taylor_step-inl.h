// CausalTaylorShift for a few tokens: the state of a head is read once and written once, straight from and to the
// caller's buffers. 2·F·e floats moved for up to kStepTokens tokens, 4·F·e flops a token: memory bandwidth is the
// bound.
//
// The tokens attend to the state as it was before them, and to each other by the polynomial itself, which loses fewer
// digits than its features.
#if defined(HSM_TAYLOR_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_TAYLOR_STEP_INL_H_
#undef HSM_TAYLOR_STEP_INL_H_
#else
#define HSM_TAYLOR_STEP_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/taylor_shift/taylor-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Tokens that share one pass over the state.
inline constexpr std::size_t kStepTokens = 4;
// Vectors of a row of the state, times tokens, that are in registers at once.
inline constexpr std::size_t kStepVectors = 8;

// What a step keeps for its tokens; `columns` is e padded to whole vectors. Features are written in whole vectors, so
// each row of them has room for one more.
struct StepScratch {
  StepScratch(std::size_t own_dim, std::size_t own_value_dim, std::size_t own_features)
      : dim(own_dim),
        value_dim(own_value_dim),
        key_columns(round_up(own_dim, hn::Lanes(FloatTag()))),
        columns(round_up(own_value_dim, hn::Lanes(FloatTag()))),
        features(own_features),
        stride(own_features + hn::Lanes(FloatTag())),
        buffers({2 * dim + 2 * hn::Lanes(FloatTag()), kStepTokens * stride, kStepTokens * stride, kStepTokens * columns,
                 kStepTokens * columns}) {}

  std::size_t dim;
  std::size_t value_dim;
  std::size_t key_columns;  // d padded to whole vectors
  std::size_t columns;
  std::size_t features;
  std::size_t stride;
  cpu::ScratchBuffers<5> buffers;
  float* row = buffers[0];      // (2d) one query or key, twice
  float* keys = buffers[1];     // (kStepTokens, stride) features
  float* queries = buffers[2];  // (kStepTokens, stride) weighted features
  float* values = buffers[3];   // (kStepTokens, columns)
  float* y = buffers[4];        // (kStepTokens, columns)
  float den[kStepTokens] = {};
  float weights[kStepTokens][kStepTokens] = {};  // of each token and those of the step up to it
};

// Writes the features of one query or key: 1, x, then x_i x_((i+delta) mod d), for delta = 0 times `squares`.
template <typename T>
void step_features(const T* from, bool normalize, float scale, float squares, const StepScratch& s, float* features) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  float* x = s.row;
  to_floats(from, s.dim, x);
  std::fill(x + s.dim, x + s.key_columns, 0.0f);
  if (normalize) normalize_rows(x, 1, s.key_columns, scale);
  std::copy_n(x, s.dim, x + s.dim);
  std::fill_n(x + 2 * s.dim, lanes, 0.0f);
  features[0] = 1.0f;
  std::copy_n(x, s.dim, features + 1);
  float* to = features + 1 + s.dim;
  for (std::size_t delta = 0; delta <= s.dim / 2; ++delta, to += s.dim) {
    const auto rest = static_cast<std::size_t>(features + s.features - to);
    const std::size_t count = std::min(s.dim, rest);
    const FloatVec weight = hn::Set(tag, delta == 0 ? squares : 1.0f);
    for (std::size_t i = 0; i < count; i += lanes) {
      hn::StoreU(hn::Mul(weight, hn::Mul(hn::LoadU(tag, x + i), hn::LoadU(tag, x + delta + i))), tag, to + i);
    }
  }
}

// Adds the tokens to kVectors vectors of columns of the state, and computes their attention to it. Of the last vector
// only the first `last` lanes exist when kPartial. `state_out` may be `state`.
template <std::size_t kTokens, std::size_t kVectors, bool kPartial>
HWY_NOINLINE void step_columns(const StepScratch& s, std::size_t last, const float* state, float* state_out,
                               const float* values, float* y) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto is_partial = [](std::size_t v) { return kPartial && v + 1 == kVectors; };
  // Copies, because the compiler must expect stores to the state to change what `s` holds.
  const std::size_t value_dim = s.value_dim;
  const std::size_t columns = s.columns;
  const std::size_t features = s.features;
  const std::size_t stride = s.stride;
  const float* keys = s.keys;
  const float* queries = s.queries;
  FloatVec value[kTokens][kVectors];
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) value[t][v] = hn::LoadU(tag, values + t * columns + v * lanes);
  }
  const auto add_row = [&](std::size_t r, FloatVec(&sum)[kTokens][kVectors]) HWY_ATTR {
    FloatVec key[kTokens];
    FloatVec query[kTokens];
    for (std::size_t t = 0; t < kTokens; ++t) {
      key[t] = hn::Set(tag, keys[t * stride + r]);
      query[t] = hn::Set(tag, queries[t * stride + r]);
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t at = r * value_dim + v * lanes;
      FloatVec entry = is_partial(v) ? hn::LoadN(tag, state + at, last) : hn::LoadU(tag, state + at);
      for (std::size_t t = 0; t < kTokens; ++t) sum[t][v] = hn::MulAdd(query[t], entry, sum[t][v]);
      for (std::size_t t = 0; t < kTokens; ++t) entry = hn::MulAdd(key[t], value[t][v], entry);
      if (is_partial(v)) {
        hn::StoreN(entry, tag, state_out + at, last);
      } else {
        hn::StoreU(entry, tag, state_out + at);
      }
    }
  };
  // Rows take turns with several sums, which would else wait for each other. A sum of few rows loses fewer digits.
  constexpr std::size_t kTurns = std::max<std::size_t>(kStepVectors / (kTokens * kVectors), 1);
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(hn::Zero(tag), tag, y + t * columns + v * lanes);
  }
  for (std::size_t begin = 1; begin < features; begin += kFeatureRows) {
    const std::size_t end = std::min(begin + kFeatureRows, features);
    FloatVec sum[kTurns][kTokens][kVectors];
    for (std::size_t i = 0; i < kTurns * kTokens * kVectors; ++i) {
      sum[i / (kTokens * kVectors)][i / kVectors % kTokens][i % kVectors] = hn::Zero(tag);
    }
    std::size_t r = begin;
    for (; r + kTurns <= end; r += kTurns) {
      for (std::size_t turn = 0; turn < kTurns; ++turn) add_row(r + turn, sum[turn]);
    }
    for (; r < end; ++r) add_row(r, sum[0]);
    for (std::size_t t = 0; t < kTokens; ++t) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        float* to = y + t * columns + v * lanes;
        for (std::size_t turn = 1; turn < kTurns; ++turn) sum[0][t][v] = hn::Add(sum[0][t][v], sum[turn][t][v]);
        hn::StoreU(hn::Add(hn::LoadU(tag, to), sum[0][t][v]), tag, to);
      }
    }
  }
  FloatVec total[kTokens][kVectors];
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) total[t][v] = hn::LoadU(tag, y + t * columns + v * lanes);
    for (std::size_t own = 0; own < kTokens; ++own) {
      if (own > t) continue;
      const FloatVec weight = hn::Set(tag, s.weights[t][own]);
      for (std::size_t v = 0; v < kVectors; ++v) total[t][v] = hn::MulAdd(weight, value[own][v], total[t][v]);
    }
  }
  // The constant feature comes last: see add_constant.
  add_row(0, total);
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(total[t][v], tag, y + t * columns + v * lanes);
  }
}

// Calls step_columns with `vectors` <= kVectors as a template argument.
template <std::size_t kTokens, std::size_t kVectors>
void step_vectors(const StepScratch& s, std::size_t vectors, std::size_t last, const float* state, float* state_out,
                  const float* values, float* y) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      return step_vectors<kTokens, kVectors - 1>(s, vectors, last, state, state_out, values, y);
    }
  }
  if (last == hn::Lanes(FloatTag())) {
    step_columns<kTokens, kVectors, false>(s, last, state, state_out, values, y);
  } else {
    step_columns<kTokens, kVectors, true>(s, last, state, state_out, values, y);
  }
}

template <std::size_t kTokens>
void step_state(const StepScratch& s, const float* state, float* state_out) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t total = s.columns / lanes;
  constexpr std::size_t kVectors = kStepVectors / kTokens;
  for (std::size_t first = 0; first < total; first += kVectors) {
    const std::size_t vectors = std::min(kVectors, total - first);
    const std::size_t column = first * lanes;
    const std::size_t last = first + vectors < total ? lanes : lanes - (s.columns - s.value_dim);
    step_vectors<kTokens, kVectors>(s, vectors, last, state + column, state_out + column, s.values + column,
                                    s.y + column);
  }
}

// Returns the sum of a[i] b[i] for `count` floats.
inline float step_product(const float* a, const float* b, std::size_t count) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  FloatVec sum = hn::Zero(tag);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) sum = hn::MulAdd(hn::LoadU(tag, a + i), hn::LoadU(tag, b + i), sum);
  sum = hn::MulAdd(hn::LoadN(tag, a + i, count - i), hn::LoadN(tag, b + i, count - i), sum);
  return hn::ReduceSum(tag, sum);
}

// Computes the weights of the tokens for each other, and their denominators.
inline void step_weights(StepScratch& s, std::size_t tokens, const float* norm) {
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* query = s.queries + t * s.stride + 1;
    s.den[t] = step_product(query, norm + 1, s.features - 1);
    for (std::size_t own = 0; own <= t; ++own) {
      const float score = step_product(query, s.keys + own * s.stride + 1, s.dim);
      s.weights[t][own] = (0.5f * score + 1.0f) * score + 1.0f;
      s.den[t] += s.weights[t][own];
    }
    s.den[t] += norm[0];
  }
}

// Adds the tokens to the normaliser's sums; `norm_out` may be `norm`.
inline void step_norm(const StepScratch& s, std::size_t tokens, const float* norm, float* norm_out) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto sum_at = [&](std::size_t r, FloatVec entry) HWY_ATTR {
    for (std::size_t t = 0; t < tokens; ++t) entry = hn::Add(entry, hn::LoadU(tag, s.keys + t * s.stride + r));
    return entry;
  };
  std::size_t r = 0;
  for (; r + lanes <= s.features; r += lanes) hn::StoreU(sum_at(r, hn::LoadU(tag, norm + r)), tag, norm_out + r);
  const std::size_t rest = s.features - r;
  hn::StoreN(sum_at(r, hn::LoadN(tag, norm + r, rest)), tag, norm_out + r, rest);
}

// One pass over the state of a head for `tokens` <= kStepTokens tokens, whose rows of queries and keys are `stride`
// elements apart, and those of values and results `value_stride`.
template <typename T>
void step_tokens(StepScratch& s, const T* q, const T* k, std::size_t stride, const T* v, std::size_t value_stride,
                 std::size_t tokens, bool normalize, float temperature, const float* state, const float* norm, T* y,
                 float* state_out, float* norm_out) {
  for (std::size_t t = 0; t < tokens; ++t) {
    step_features(k + t * stride, normalize, 1.0f, 1.0f, s, s.keys + t * s.stride);
    step_features(q + t * stride, normalize, temperature, 0.5f, s, s.queries + t * s.stride);
  }
  step_weights(s, tokens, norm);
  step_norm(s, tokens, norm, norm_out);
  pack_rows(v, value_stride, tokens, s.value_dim, s.columns, s.values);
  switch (tokens) {
    case 1:
      step_state<1>(s, state, state_out);
      break;
    case 2:
      step_state<2>(s, state, state_out);
      break;
    case 3:
      step_state<3>(s, state, state_out);
      break;
    default:
      step_state<kStepTokens>(s, state, state_out);
      break;
  }
  write_rows(s.y, s.columns, s.den, tokens, s.value_dim, 1.0f, y, value_stride);
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_TAYLOR_STEP_INL_H_
