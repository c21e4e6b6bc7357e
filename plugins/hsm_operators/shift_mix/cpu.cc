#include "hsm_operators/shift_mix/args.gen.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/shift_mix/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/simd-inl.h"

#ifndef HSM_SHIFT_MIX_CC_
#define HSM_SHIFT_MIX_CC_
namespace hsm {
namespace {

// Byte offsets into the buffers of one call.
class Rows {
 public:
  explicit Rows(const ShiftMixArgs& args)
      : args_(args), element_(static_cast<std::int64_t>(size_of(args.type))), row_(args.width * element_) {}

  std::int64_t row_bytes() const { return row_; }

  const std::byte* x(std::int64_t b, std::int64_t t) const {
    return static_cast<const std::byte*>(args_.x) + (b * args_.length + t) * row_;
  }
  std::byte* y(std::int64_t b, std::int64_t t) const {
    return static_cast<std::byte*>(args_.y) + (b * args_.length + t) * row_;
  }
  // The slot of absolute position `position` >= 0.
  std::int64_t slot(std::int64_t b, std::int64_t position) const {
    return (b * args_.ring_rows + position % args_.ring_rows) * row_;
  }

  // Row b, `shift` tokens before token t of this call, or null where there is none. Compared before a difference is
  // formed: a shift, and the position of an idle row, may be any number.
  const std::byte* token(std::int64_t b, std::int64_t t, std::int64_t shift) const {
    if (shift <= t) return shift > t - args_.length ? x(b, t - shift) : nullptr;
    const std::int64_t back = shift - t;
    if (args_.ring == nullptr || args_.position[b] < back) return nullptr;
    return static_cast<const std::byte*>(args_.ring) + slot(b, args_.position[b] - back);
  }

 private:
  const ShiftMixArgs& args_;
  std::int64_t element_;
  std::int64_t row_;
};

// Tokens of one row of the batch.
struct TokenRange {
  std::int64_t b;
  std::int64_t begin;
  std::int64_t end;
};

}  // namespace
}  // namespace hsm
#endif  // HSM_SHIFT_MIX_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Stores that leave the caches to others; only float vectors are whole cache lines, or halves or quarters of one.
template <bool kStream, typename T>
HWY_INLINE void put(FloatTag tag, FloatVec value, T* y) {
  if constexpr (kStream && std::is_same_v<T, float>) {
    hn::Stream(value, tag, y);
  } else {
    store_floats(tag, value, y);
  }
}

// y[c] = alpha[c] x[c] + beta[c] shifted[c] for `count` channels; a null `shifted` is zero.
template <bool kStream, typename T>
HWY_INLINE void mix_row(const T* x, const T* shifted, const T* alpha, const T* beta, std::size_t count, T* y) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  std::size_t c = 0;
  if (shifted == nullptr) {
    for (; c + lanes <= count; c += lanes) {
      put<kStream>(tag, hn::Mul(load_floats(tag, alpha + c), load_floats(tag, x + c)), y + c);
    }
    for (; c < count; ++c) y[c] = from_float<T>(to_float(alpha[c]) * to_float(x[c]));
    return;
  }
  for (; c + lanes <= count; c += lanes) {
    const auto own = hn::Mul(load_floats(tag, alpha + c), load_floats(tag, x + c));
    put<kStream>(tag, hn::MulAdd(load_floats(tag, beta + c), load_floats(tag, shifted + c), own), y + c);
  }
  for (; c < count; ++c) {
    y[c] = from_float<T>(to_float(alpha[c]) * to_float(x[c]) + to_float(beta[c]) * to_float(shifted[c]));
  }
}

// Tokens and vectors of channels that are mixed with the same weights, which stay in registers. Few tokens, so that
// rows are read and written nearly in order, as the hardware's prefetchers want it; measured.
inline constexpr std::int64_t kTileTokens = 4;
inline constexpr std::size_t kTileVectors = 4;

// kVectors vectors of channels of kTileTokens tokens, `row` elements apart.
template <bool kStream, std::size_t kVectors, typename T>
HWY_INLINE void mix_tile(const T* x, const T* shifted, const T* alpha, const T* beta, std::ptrdiff_t row, T* y) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  FloatVec a[kVectors];
  FloatVec b[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    a[v] = load_floats(tag, alpha + v * lanes);
    b[v] = load_floats(tag, beta + v * lanes);
  }
  for (std::int64_t t = 0; t < kTileTokens; ++t, x += row, shifted += row, y += row) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto own = hn::Mul(a[v], load_floats(tag, x + v * lanes));
      put<kStream>(tag, hn::MulAdd(b[v], load_floats(tag, shifted + v * lanes), own), y + v * lanes);
    }
  }
}

// One group of `count` channels of kTileTokens tokens.
template <bool kStream, typename T>
HWY_INLINE void mix_group(const T* x, const T* shifted, const T* alpha, const T* beta, std::size_t count,
                          std::ptrdiff_t row, T* y) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  std::size_t c = 0;
  for (; c + kTileVectors * lanes <= count; c += kTileVectors * lanes) {
    mix_tile<kStream, kTileVectors>(x + c, shifted + c, alpha + c, beta + c, row, y + c);
  }
  for (; c + lanes <= count; c += lanes) {
    mix_tile<kStream, 1>(x + c, shifted + c, alpha + c, beta + c, row, y + c);
  }
  if (c == count) return;
  for (std::int64_t t = 0; t < kTileTokens; ++t, x += row, shifted += row, y += row) {
    mix_row<false>(x + c, shifted + c, alpha + c, beta + c, count - c, y + c);
  }
}

// Tiles that read tokens of this call are mixed as a whole; others, at the borders, token by token.
template <bool kStream, typename T>
void mix_range(const ShiftMixArgs& args, const Rows& rows, const TokenRange& range) {
  const std::size_t count = static_cast<std::size_t>(args.width) / args.shifts.size();
  const auto row = static_cast<std::ptrdiff_t>(args.width);
  const T* x = reinterpret_cast<const T*>(rows.x(range.b, range.begin));
  T* y = reinterpret_cast<T*>(rows.y(range.b, range.begin));
  for (std::int64_t t = range.begin; t < range.end; t += kTileTokens, x += kTileTokens * row, y += kTileTokens * row) {
    const T* alpha = static_cast<const T*>(args.alpha);
    const T* beta = static_cast<const T*>(args.beta);
    const std::int64_t tokens = std::min(kTileTokens, range.end - t);
    std::size_t first = 0;
    for (const std::int64_t shift : args.shifts) {
      if (shift <= t && shift >= t + kTileTokens - args.length && tokens == kTileTokens) {
        mix_group<kStream>(x + first, x + first - shift * row, alpha + first, beta + first, count, row, y + first);
      } else {
        for (std::int64_t i = 0; i < tokens; ++i) {
          const T* token = reinterpret_cast<const T*>(rows.token(range.b, t + i, shift));
          mix_row<kStream>(x + first + i * row, token == nullptr ? nullptr : token + first, alpha + first, beta + first,
                           count, y + first + i * row);
        }
      }
      first += count;
    }
  }
}

// `stream`: the outputs are more than the caches hold.
void mix_tokens(const ShiftMixArgs& args, const Rows& rows, const TokenRange& range, bool stream) {
  const std::size_t vector = hn::Lanes(FloatTag()) * sizeof(float);
  const std::size_t group = static_cast<std::size_t>(rows.row_bytes()) / args.shifts.size();
  const bool aligned = reinterpret_cast<std::uintptr_t>(args.y) % vector == 0 && group % vector == 0;
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    if (std::is_same_v<T, float> && stream && aligned) {
      mix_range<true, T>(args, rows, range);
      hwy::FlushStream();
    } else {
      mix_range<false, T>(args, rows, range);
    }
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(mix_tokens);

namespace {

// Tokens of one row that a task handles: enough work to hide the cost of handing it out.
constexpr std::int64_t kTaskBytes = 256 * 1024;
// Bytes of output from which on they would only push other data out of the caches; measured.
constexpr std::int64_t kStreamBytes = 16 * 1024 * 1024;

const std::byte* at(const void* data, std::int64_t offset) { return static_cast<const std::byte*>(data) + offset; }

// y[b,t,c] = x[b,t-s(c),c], without arithmetic.
void copy_tokens(const ShiftMixArgs& args, const Rows& rows, const TokenRange& range) {
  const std::size_t bytes = static_cast<std::size_t>(rows.row_bytes()) / args.shifts.size();
  for (std::int64_t t = range.begin; t < range.end; ++t) {
    std::byte* y = rows.y(range.b, t);
    std::size_t offset = 0;
    for (const std::int64_t shift : args.shifts) {
      if (const std::byte* token = rows.token(range.b, t, shift)) {
        std::memcpy(y + offset, token + offset, bytes);
      } else {
        std::memset(y + offset, 0, bytes);
      }
      offset += bytes;
    }
  }
}

void update_ring(const ShiftMixArgs& args, const Rows& rows, std::int64_t b) {
  const auto bytes = static_cast<std::size_t>(rows.row_bytes());
  if (args.ring_out != args.ring && args.ring_rows > 0) {
    const std::int64_t start = rows.slot(b, 0);
    std::memcpy(static_cast<std::byte*>(args.ring_out) + start, at(args.ring, start),
                bytes * static_cast<std::size_t>(args.ring_rows));
  }
  // Only the last R of the new tokens stay.
  for (std::int64_t t = std::max<std::int64_t>(0, args.lengths[b] - args.ring_rows); t < args.lengths[b]; ++t) {
    std::memcpy(static_cast<std::byte*>(args.ring_out) + rows.slot(b, args.position[b] + t), rows.x(b, t), bytes);
  }
}

}  // namespace

void shift_mix(const ShiftMixArgs& args, const ParallelFor& parallel_for) {
  if (args.batch == 0 || args.width == 0) return;
  const Rows rows(args);
  const std::int64_t block = std::max<std::int64_t>(kTaskBytes / rows.row_bytes(), 1);
  const std::int64_t blocks = (args.length + block - 1) / block;
  const bool stream = args.batch * args.length * rows.row_bytes() >= kStreamBytes;
  parallel_for(static_cast<std::size_t>(args.batch * blocks), [&](std::size_t task) {
    const std::int64_t start = static_cast<std::int64_t>(task) % blocks * block;
    const TokenRange range{static_cast<std::int64_t>(task) / blocks, start, std::min(start + block, args.length)};
    if (args.alpha == nullptr) return copy_tokens(args, rows, range);
    HWY_DYNAMIC_DISPATCH(mix_tokens)(args, rows, range, stream);
  });
  if (args.ring == nullptr) return;
  // Read before write: the ring may be updated in place, so nobody may still be reading it.
  parallel_for(static_cast<std::size_t>(args.batch),
               [&](std::size_t b) { update_ring(args, rows, static_cast<std::int64_t>(b)); });
}

}  // namespace hsm
#endif  // HWY_ONCE
