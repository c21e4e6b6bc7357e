#include "mixers/causal_taylor_shift.h"

#include <algorithm>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mixers/cpu/causal_taylor_shift.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "mixers/cpu/element.h"
#include "mixers/cpu/scratch.h"
#include "mixers/cpu/taylor-inl.h"

#ifndef HSM_CAUSAL_TAYLOR_SHIFT_CC_
#define HSM_CAUSAL_TAYLOR_SHIFT_CC_
namespace hsm {
namespace {

// Tokens of a chunk: inside it scores, across chunks the state. A multiple of every vector length.
constexpr std::size_t kChunk = 128;

}  // namespace
}  // namespace hsm
#endif  // HSM_CAUSAL_TAYLOR_SHIFT_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Tiles of one head; `columns` is d padded to whole vectors.
struct CausalScratch {
  CausalScratch(std::size_t dim, std::size_t columns, std::size_t features)
      : buffers({dim * kChunk, dim * kChunk, columns * kChunk, kChunk * kChunk, columns * kChunk, kChunk,
                 kTransposed * dim, features * columns, features}) {}

  cpu::ScratchBuffers<9> buffers;
  float* queries = buffers[0];  // (d, kChunk)
  float* keys = buffers[1];     // (d, kChunk)
  float* values = buffers[2];   // (kChunk, columns)
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
  gemm(ColumnMajor{s.queries, kChunk}, tokens, s.keys, kChunk, padded, dim, s.work, kChunk, false);
  for (std::size_t n = 0; n < tokens; ++n) {
    taylor_weights(s.work + n * kChunk, kChunk, 1, n + 1, padded, s.den + n);
  }
  gemm(RowMajor{s.work, kChunk}, tokens, s.values, columns, columns, tokens, s.y, columns, true);
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

// Starts with the attention to everything before the chunk, through the state, but for its constant feature.
inline void attend_state(std::size_t tokens, std::size_t dim, std::size_t columns, std::size_t features,
                         CausalScratch& s) {
  scale_squares(0.5f, dim, columns, s.sums, s.norm);
  std::fill_n(s.y, tokens * columns, 0.0f);
  std::fill_n(s.den, round_up(tokens, hn::Lanes(FloatTag())), 0.0f);
  apply_features(s.queries, kChunk, tokens, dim, s.sums, s.norm, columns, features, s.work, s.y, s.den);
  scale_squares(2.0f, dim, columns, s.sums, s.norm);
}

template <typename T>
void scan_head(const CausalTaylorShiftArgs& args, std::int64_t head) {
  const auto dim = static_cast<std::size_t>(args.dim);
  const auto features = static_cast<std::size_t>(taylor_features(args.dim));
  const std::size_t columns = round_up(dim, hn::Lanes(FloatTag()));
  const auto stride = static_cast<std::size_t>(args.heads * args.dim);
  const std::int64_t b = head / args.heads;
  const std::int64_t h = head % args.heads;
  const std::int64_t start = (b * args.length * args.heads + h) * args.dim;
  const float temperature = args.normalize ? to_float(static_cast<const T*>(args.temperature)[h]) : 1.0f;
  const auto index = static_cast<std::size_t>(head);
  CausalScratch s(dim, columns, features);

  pack_rows(args.state + index * features * dim, dim, features, dim, columns, s.sums);
  std::copy_n(args.norm + index * features, features, s.norm);
  const auto length = static_cast<std::size_t>(args.lengths[b]);
  for (std::size_t first = 0; first < length; first += kChunk) {
    const std::size_t tokens = std::min(kChunk, length - first);
    const std::size_t offset = static_cast<std::size_t>(start) + first * stride;
    pack_transposed(static_cast<const T*>(args.q) + offset, stride, tokens, dim, args.normalize, temperature, s.rows,
                    s.queries, kChunk);
    pack_transposed(static_cast<const T*>(args.k) + offset, stride, tokens, dim, args.normalize, 1.0f, s.rows, s.keys,
                    kChunk);
    pack_rows(static_cast<const T*>(args.v) + offset, stride, tokens, dim, columns, s.values);
    attend_state(tokens, dim, columns, features, s);
    attend_inside(tokens, dim, columns, s);
    add_constant(s.sums, s.norm[0], tokens, columns, s.y, s.den);
    update_state(tokens, dim, columns, features, s);
    write_rows(s.y, columns, s.den, tokens, dim, 1.0f, static_cast<T*>(args.y) + offset, stride);
  }
  for (std::size_t r = 0; r < features; ++r) {
    std::copy_n(s.sums + r * columns, dim, args.state_out + (index * features + r) * dim);
  }
  std::copy_n(s.norm, features, args.norm_out + index * features);
}

void scan(const CausalTaylorShiftArgs& args, std::int64_t head) {
  cpu::with_element(args.type, [&](auto element) { scan_head<decltype(element)>(args, head); });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(scan);

void causal_taylor_shift(const CausalTaylorShiftArgs& args, const ParallelFor& parallel_for) {
  if (args.dim == 0) return;
  parallel_for(static_cast<std::size_t>(args.batch * args.heads),
               [&](std::size_t head) { HWY_DYNAMIC_DISPATCH(scan)(args, static_cast<std::int64_t>(head)); });
}

}  // namespace hsm
#endif  // HWY_ONCE
