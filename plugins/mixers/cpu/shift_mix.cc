#include "mixers/shift_mix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mixers/cpu/shift_mix.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "mixers/cpu/element.h"
#include "mixers/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// y[c] = alpha[c] x[c] + beta[c] shifted[c] for `count` channels; a null `shifted` is zero.
template <typename T>
HWY_NOINLINE void mix_row(const T* x, const T* shifted, const T* alpha, const T* beta, std::size_t count, T* y) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  std::size_t c = 0;
  if (shifted == nullptr) {
    for (; c + lanes <= count; c += lanes) {
      store_floats(tag, hn::Mul(load_floats(tag, alpha + c), load_floats(tag, x + c)), y + c);
    }
    for (; c < count; ++c) y[c] = from_float<T>(to_float(alpha[c]) * to_float(x[c]));
    return;
  }
  for (; c + lanes <= count; c += lanes) {
    const auto own = hn::Mul(load_floats(tag, alpha + c), load_floats(tag, x + c));
    store_floats(tag, hn::MulAdd(load_floats(tag, beta + c), load_floats(tag, shifted + c), own), y + c);
  }
  for (; c < count; ++c) {
    y[c] = from_float<T>(to_float(alpha[c]) * to_float(x[c]) + to_float(beta[c]) * to_float(shifted[c]));
  }
}

void mix_row_of(DType type, const void* x, const void* shifted, const void* alpha, const void* beta, std::size_t count,
                void* y) {
  cpu::with_element(type, [&](auto element) {
    using T = decltype(element);
    mix_row(static_cast<const T*>(x), static_cast<const T*>(shifted), static_cast<const T*>(alpha),
            static_cast<const T*>(beta), count, static_cast<T*>(y));
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(mix_row_of);

namespace {

// Tokens of one row that a task handles: enough work to hide the cost of handing it out.
constexpr std::int64_t kTaskBytes = 256 * 1024;

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

  // Row b, `t` tokens from the start of this call (t < 0: before it), or null where nothing came before.
  const std::byte* token(std::int64_t b, std::int64_t t) const {
    if (t >= 0) return x(b, t);
    // Not position + t < 0: the position of an idle row may be any number.
    if (args_.ring == nullptr || args_.position[b] < -t) return nullptr;
    return static_cast<const std::byte*>(args_.ring) + slot(b, args_.position[b] + t);
  }

 private:
  const ShiftMixArgs& args_;
  std::int64_t element_;
  std::int64_t row_;
};

const std::byte* at(const void* data, std::int64_t offset) { return static_cast<const std::byte*>(data) + offset; }

void shift_token(const ShiftMixArgs& args, const Rows& rows, std::int64_t b, std::int64_t t) {
  const auto groups = static_cast<std::int64_t>(args.shifts.size());
  const std::int64_t group_bytes = rows.row_bytes() / groups;
  const auto count = static_cast<std::size_t>(args.width / groups);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t offset = g * group_bytes;
    const std::byte* token = rows.token(b, t - args.shifts[static_cast<std::size_t>(g)]);
    const void* shifted = token == nullptr ? nullptr : token + offset;
    void* y = rows.y(b, t) + offset;
    if (args.alpha != nullptr) {
      HWY_DYNAMIC_DISPATCH(mix_row_of)
      (args.type, rows.x(b, t) + offset, shifted, at(args.alpha, offset), at(args.beta, offset), count, y);
    } else if (shifted != nullptr) {
      std::memcpy(y, shifted, static_cast<std::size_t>(group_bytes));
    } else {
      std::memset(y, 0, static_cast<std::size_t>(group_bytes));
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
  parallel_for(static_cast<std::size_t>(args.batch * blocks), [&](std::size_t task) {
    const std::int64_t b = static_cast<std::int64_t>(task) / blocks;
    const std::int64_t start = static_cast<std::int64_t>(task) % blocks * block;
    for (std::int64_t t = start; t < std::min(start + block, args.length); ++t) shift_token(args, rows, b, t);
  });
  if (args.ring == nullptr) return;
  // Read before write: the ring may be updated in place, so nobody may still be reading it.
  parallel_for(static_cast<std::size_t>(args.batch),
               [&](std::size_t b) { update_ring(args, rows, static_cast<std::int64_t>(b)); });
}

}  // namespace hsm
#endif  // HWY_ONCE
