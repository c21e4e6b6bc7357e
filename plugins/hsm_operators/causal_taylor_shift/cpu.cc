#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"

#include <algorithm>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/causal_taylor_shift/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/taylor_shift/taylor-inl.h"
#include "hsm_operators/taylor_shift/taylor_step-inl.h"

#ifndef HSM_CAUSAL_TAYLOR_SHIFT_CC_
#define HSM_CAUSAL_TAYLOR_SHIFT_CC_
namespace hsm {
namespace {

// Tokens of a chunk: inside it scores, across chunks the state. A multiple of every vector length.
constexpr std::size_t kChunk = 128;
// Tokens up to which passes over the state in place are quicker than a chunk, by whether the state's rows are whole
// vectors; measured.
constexpr std::size_t kFewTokens = 16;
constexpr std::size_t kFewTokensPartial = 4;

}  // namespace
}  // namespace hsm
#endif  // HSM_CAUSAL_TAYLOR_SHIFT_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Tiles of one head, with keys and values of so many chunks; `columns` is e padded to whole vectors.
struct CausalScratch {
  CausalScratch(std::size_t dim, std::size_t columns, std::size_t features, std::size_t chunks)
      : buffers({dim * kChunk, dim * kChunk * chunks, columns * kChunk * chunks, kChunk * kChunk, columns * kChunk,
                 kChunk, kTransposed * dim, features * columns, features}) {}

  cpu::ScratchBuffers<9> buffers;
  float* queries = buffers[0];  // (d, kChunk)
  float* keys = buffers[1];     // (d, kChunk) of the present chunk; those of earlier ones stand before
  float* values = buffers[2];   // (kChunk, columns), likewise
  float* work = buffers[3];     // scores or features
  float* y = buffers[4];        // (kChunk, columns)
  float* den = buffers[5];      // (kChunk)
  float* rows = buffers[6];     // (kTransposed, d)
  float* sums = buffers[7];     // (F, columns), the state
  float* norm = buffers[8];     // (F)
};

// Gives the squares' sums (delta = 0) the query side's weight 1/2, or takes it back.
inline void scale_squares(float factor, std::size_t dim, std::size_t columns, float* sums, float* norm) {
  for (std::size_t i = (1 + dim) * columns; i < (1 + 2 * dim) * columns; ++i) sums[i] *= factor;
  for (std::size_t i = 1 + dim; i < 1 + 2 * dim; ++i) norm[i] *= factor;
}

// Adds the attention of each token to itself and the earlier ones of its chunk.
inline void attend_inside(std::size_t tokens, std::size_t dim, std::size_t columns, CausalScratch& s) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t padded = round_up(tokens, lanes);
  gemm(ColumnMajor{s.keys, kChunk}, tokens, s.queries, kChunk, padded, dim, Product{s.work, kChunk, false});
  taylor_weights<true>(s.work, kChunk, tokens, padded, s.den);
  gemm(ColumnMajor{s.work, kChunk}, tokens, s.values, columns, columns, tokens, Product{s.y, columns, true});
}

// Adds the attention to so many chunks before the present one, key by key.
inline void attend_before(std::size_t chunks, std::size_t tokens, std::size_t dim, std::size_t columns,
                          CausalScratch& s) {
  const std::size_t padded = round_up(tokens, hn::Lanes(FloatTag()));
  for (std::size_t back = chunks; back > 0; --back) {
    gemm(ColumnMajor{s.keys - back * dim * kChunk, kChunk}, kChunk, s.queries, kChunk, padded, dim,
         Product{s.work, kChunk, false});
    taylor_weights<false>(s.work, kChunk, kChunk, padded, s.den);
    gemm(ColumnMajor{s.work, kChunk}, tokens, s.values - back * kChunk * columns, columns, columns, kChunk,
         Product{s.y, columns, true});
  }
}

// Adds a chunk of keys and values to the state.
inline void update_state(std::size_t tokens, std::size_t dim, std::size_t columns, std::size_t features,
                         CausalScratch& s) {
  const FloatTag tag;
  s.norm[0] += static_cast<float>(tokens);
  for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
    FloatVec total = hn::Zero(tag);
    for (std::size_t t = 0; t < tokens; ++t) total = hn::Add(total, hn::LoadU(tag, s.values + t * columns + i));
    hn::StoreU(hn::Add(total, hn::LoadU(tag, s.sums + i)), tag, s.sums + i);
  }
  accumulate_features(s.keys, kChunk, tokens, dim, s.values, columns, features, s.work, s.sums, s.norm);
}

// Adds the attention to everything before the chunk, through the state, but for its constant feature.
inline void attend_state(std::size_t tokens, std::size_t dim, std::size_t columns, std::size_t features,
                         CausalScratch& s) {
  scale_squares(0.5f, dim, columns, s.sums, s.norm);
  apply_features(s.queries, kChunk, tokens, dim, s.sums, s.norm, columns, features, s.work, s.y, s.den);
  scale_squares(2.0f, dim, columns, s.sums, s.norm);
}

// One head of a call, typed.
template <typename T>
struct CausalHead {
  CausalHead(const CausalTaylorShiftArgs& args, std::int64_t head)
      : dim(static_cast<std::size_t>(args.dim)),
        value_dim(static_cast<std::size_t>(args.value_dim)),
        features(static_cast<std::size_t>(taylor_features(args.dim))),
        columns(round_up(value_dim, hn::Lanes(FloatTag()))),
        stride(static_cast<std::size_t>(args.heads * args.dim)),
        value_stride(static_cast<std::size_t>(args.heads * args.value_dim)),
        length(static_cast<std::size_t>(args.lengths[head / args.heads])),
        normalize(args.normalize) {
    const std::int64_t h = head % args.heads;
    const std::int64_t row = head / args.heads * args.length * args.heads + h;
    q = static_cast<const T*>(args.q) + row * args.dim;
    k = static_cast<const T*>(args.k) + row * args.dim;
    v = static_cast<const T*>(args.v) + row * args.value_dim;
    y = static_cast<T*>(args.y) + row * args.value_dim;
    temperature = normalize ? to_float(static_cast<const T*>(args.temperature)[h]) : 1.0f;
    const std::size_t index = static_cast<std::size_t>(head) * features;
    state = args.state + index * value_dim;
    norm = args.norm + index;
    state_out = args.state_out + index * value_dim;
    norm_out = args.norm_out + index;
  }

  std::size_t dim;
  std::size_t value_dim;
  std::size_t features;
  std::size_t columns;       // value_dim, padded to whole vectors
  std::size_t stride;        // elements between tokens, of queries and keys
  std::size_t value_stride;  // and of values and results
  std::size_t length;        // valid tokens
  bool normalize;
  const T* q;
  const T* k;
  const T* v;
  T* y;
  float temperature;
  const float* state;
  const float* norm;
  float* state_out;
  float* norm_out;
};

// Returns whether all numbers are zero, of either sign.
inline bool are_zero(const float* from, std::size_t count) {
  const FloatTag tag;
  const hn::RebindToUnsigned<FloatTag> bits;
  auto any = hn::Zero(bits);
  for (std::size_t i = 0; i < count; i += hn::Lanes(tag)) {
    any = hn::Or(any, hn::BitCast(bits, hn::Abs(hn::LoadN(tag, from + i, count - i))));
  }
  return hn::AllTrue(bits, hn::Eq(any, hn::Zero(bits)));
}

// Returns how many chunks attend to those before them key by key, because that costs less than the state: none where
// something came before the call.
template <typename T>
std::size_t direct_chunks(const CausalHead<T>& head) {
  if (!are_zero(head.norm, head.features) || !are_zero(head.state, head.features * head.value_dim)) return 0;
  // About the multiplications of a query with the state, over those with a key.
  const std::size_t keys = head.features * (head.columns + 2) / (head.dim + head.columns + 5);
  return std::min(keys / kChunk + 1, (head.length + kChunk - 1) / kChunk);
}

// Many tokens, chunk by chunk.
template <typename T>
void scan_chunks(const CausalHead<T>& head) {
  const auto& [dim, value_dim, features, columns, stride, value_stride, length, normalize, q, k, v, y, temperature,
               state, norm, state_out, norm_out] = head;
  const std::size_t direct = direct_chunks(head);
  CausalScratch s(dim, columns, features, std::max<std::size_t>(direct, 1));
  pack_rows(state, value_dim, features, value_dim, columns, s.sums);
  std::copy_n(norm, features, s.norm);
  for (std::size_t first = 0; first < length; first += kChunk) {
    const std::size_t tokens = std::min(kChunk, length - first);
    const std::size_t offset = first * stride;
    const std::size_t chunk = first / kChunk;
    if (chunk > 0 && chunk < direct) {
      s.keys += dim * kChunk;
      s.values += columns * kChunk;
    }
    pack_transposed(q + offset, stride, tokens, dim, normalize, temperature, s.rows, s.queries, kChunk);
    pack_transposed(k + offset, stride, tokens, dim, normalize, 1.0f, s.rows, s.keys, kChunk);
    pack_rows(v + first * value_stride, value_stride, tokens, value_dim, columns, s.values);
    std::fill_n(s.y, tokens * columns, 0.0f);
    std::fill_n(s.den, round_up(tokens, hn::Lanes(FloatTag())), 0.0f);
    if (chunk < direct) {
      attend_before(chunk, tokens, dim, columns, s);
      attend_inside(tokens, dim, columns, s);
    } else {
      attend_state(tokens, dim, columns, features, s);
      attend_inside(tokens, dim, columns, s);
      add_constant(s.sums, s.norm[0], tokens, columns, s.y, s.den);
    }
    update_state(tokens, dim, columns, features, s);
    write_rows(s.y, columns, s.den, tokens, value_dim, 1.0f, y + first * value_stride, value_stride);
  }
  for (std::size_t r = 0; r < features; ++r) {
    std::copy_n(s.sums + r * columns, value_dim, state_out + r * value_dim);
  }
  std::copy_n(s.norm, features, norm_out);
}

// A few tokens: each pass over the state takes up to kStepTokens of them.
template <typename T>
void scan_steps(const CausalHead<T>& head) {
  StepScratch s(head.dim, head.value_dim, head.features);
  const float* state = head.state;
  const float* norm = head.norm;
  for (std::size_t first = 0; first < head.length; first += kStepTokens) {
    const std::size_t offset = first * head.stride;
    const std::size_t value_offset = first * head.value_stride;
    step_tokens(s, head.q + offset, head.k + offset, head.stride, head.v + value_offset, head.value_stride,
                std::min(kStepTokens, head.length - first), head.normalize, head.temperature, state, norm,
                head.y + value_offset, head.state_out, head.norm_out);
    state = head.state_out;
    norm = head.norm_out;
  }
}

void scan(const CausalTaylorShiftArgs& args, std::int64_t index) {
  cpu::with_element(args.type, [&](auto element) {
    const CausalHead<decltype(element)> head(args, index);
    if (head.length > (head.value_dim == head.columns ? kFewTokens : kFewTokensPartial)) return scan_chunks(head);
    if (head.length > 0) return scan_steps(head);
    if (head.state_out != head.state) {
      std::copy_n(head.state, head.features * head.value_dim, head.state_out);
    }
    if (head.norm_out != head.norm) std::copy_n(head.norm, head.features, head.norm_out);
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(scan);

namespace {

// Numbers of the state times tokens that one thread handles about as quickly as it hands work to others.
constexpr double kSmall = 1 << 16;
const ParallelFor kSerial;

bool is_small(const CausalTaylorShiftArgs& args) {
  const auto state = static_cast<double>(args.batch * args.heads * taylor_features(args.dim) * args.value_dim);
  return state * static_cast<double>(args.length) < kSmall;
}

}  // namespace

void causal_taylor_shift(const CausalTaylorShiftArgs& args, const ParallelFor& pool) {
  if (args.dim == 0 || args.value_dim == 0) return;
  const ParallelFor& parallel_for = is_small(args) ? kSerial : pool;
  parallel_for(static_cast<std::size_t>(args.batch * args.heads),
               [&](std::size_t head) { HWY_DYNAMIC_DISPATCH(scan)(args, static_cast<std::int64_t>(head)); });
}

}  // namespace hsm
#endif  // HWY_ONCE
