// One head of a call, and rows of its tokens as padded floats.
#if defined(HSM_DECAYED_HEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_DECAYED_HEAD_INL_H_
#undef HSM_DECAYED_HEAD_INL_H_
#else
#define HSM_DECAYED_HEAD_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "hsm_operators/common/cpu/exp-inl.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"
#include "hsm_operators/decayed_linear_attention/args.gen.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// One head of one row, typed; a and b are null without a delta rule.
template <typename T>
struct DecayedHead {
  DecayedHead(const DecayedLinearAttentionArgs& args, std::int64_t head)
      : key_dim(static_cast<std::size_t>(args.key_dim)),
        value_dim(static_cast<std::size_t>(args.value_dim)),
        decay_dim(static_cast<std::size_t>(args.decay_dim)),
        heads(static_cast<std::size_t>(args.heads)),
        length(static_cast<std::size_t>(args.lengths[head / args.heads])),
        exclusive(args.exclusive) {
    const std::int64_t token = head / args.heads * args.length * args.heads + head % args.heads;
    const auto at = [&](const void* data, std::int64_t width) {
      return data == nullptr ? nullptr : static_cast<const T*>(data) + token * width;
    };
    q = at(args.q, args.key_dim);
    k = at(args.k, args.key_dim);
    v = at(args.v, args.value_dim);
    log_decay = at(args.log_decay, args.decay_dim);
    a = at(args.a, args.key_dim);
    b = at(args.b, args.key_dim);
    y = static_cast<T*>(args.y) + token * args.value_dim;
    state = args.state + head * args.key_dim * args.value_dim;
    state_out = args.state_out + head * args.key_dim * args.value_dim;
  }

  // Elements between a token and the next.
  std::size_t key_stride() const { return heads * key_dim; }
  std::size_t value_stride() const { return heads * value_dim; }
  std::size_t decay_stride() const { return heads * decay_dim; }

  std::size_t key_dim;
  std::size_t value_dim;
  std::size_t decay_dim;
  std::size_t heads;
  std::size_t length;  // valid tokens
  bool exclusive;
  const T* q;
  const T* k;
  const T* v;
  const T* log_decay;
  const T* a;
  const T* b;
  T* y;
  const float* state;
  float* state_out;
};

// Asks for rows of `width` elements: tokens lie too far apart for the processor to foresee which it needs next.
template <typename T>
void prefetch_rows(const T* from, std::size_t stride, std::size_t rows, std::size_t width) {
  constexpr std::size_t kLine = 64 / sizeof(T);
  for (std::size_t t = 0; t < rows; ++t) {
    for (std::size_t i = 0; i < width; i += kLine) hwy::Prefetch(from + t * stride + i);
  }
}

// Asks for up to `tokens` tokens from `first` on.
template <typename T>
void prefetch_tokens(const DecayedHead<T>& head, std::size_t first, std::size_t tokens) {
  const std::size_t rows = std::min(tokens, head.length - std::min(first, head.length)), at = first * head.key_stride();
  prefetch_rows(head.log_decay + first * head.decay_stride(), head.decay_stride(), rows, head.decay_dim);
  prefetch_rows(head.q + at, head.key_stride(), rows, head.key_dim);
  prefetch_rows(head.k + at, head.key_stride(), rows, head.key_dim);
  prefetch_rows(head.v + first * head.value_stride(), head.value_stride(), rows, head.value_dim);
  if (head.a == nullptr) return;
  prefetch_rows(head.a + at, head.key_stride(), rows, head.key_dim);
  prefetch_rows(head.b + at, head.key_stride(), rows, head.key_dim);
}

// Writes the decays of `tokens` tokens from `first` on as rows (tokens, columns), 1 beyond the key width.
template <typename T>
void decay_rows(const DecayedHead<T>& head, std::size_t first, std::size_t tokens, std::size_t columns, float* rows) {
  const FloatTag tag;
  const T* from = head.log_decay + first * head.decay_stride();
  for (std::size_t t = 0; t < tokens; ++t, from += head.decay_stride()) {
    float* row = rows + t * columns;
    if (head.decay_dim < head.key_dim) {
      const FloatVec decay = exp_floats(hn::Set(tag, to_float(*from)));
      for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) hn::StoreU(decay, tag, row + i);
      continue;
    }
    to_floats(from, head.key_dim, row);
    std::fill(row + head.key_dim, row + columns, 0.0f);
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      hn::StoreU(exp_floats(hn::LoadU(tag, row + i)), tag, row + i);
    }
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_DECAYED_HEAD_INL_H_
