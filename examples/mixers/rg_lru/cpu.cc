// A task takes some channels of one row, or of all rows where a row is short, token by token: what is read lies side by
// side, and the state stays in the cache.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rg_lru/args.gen.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "rg_lru/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/exp-inl.h"
#include "hsm_operators/common/cpu/partial-inl.h"

#ifndef HSM_RG_LRU_CC_
#define HSM_RG_LRU_CC_
namespace hsm {
namespace {

constexpr std::int64_t kChannels = 128;
// From this many tokens on, what is computed once for each channel costs little beside them.
constexpr std::int64_t kLongRow = 16;

// How a call is split, by its shape alone.
struct Tasks {
  explicit Tasks(const RglruArgs& args)
      : blocks((args.width + kChannels - 1) / kChannels), groups(args.length < kLongRow ? 1 : args.batch) {}

  std::int64_t count() const { return blocks * groups; }

  std::int64_t blocks;  // of channels
  std::int64_t groups;  // of rows
};

}  // namespace
}  // namespace hsm
#endif  // HSM_RG_LRU_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

HWY_INLINE FloatVec sigmoid(FloatVec x) {
  const FloatVec one = hn::Set(FloatTag(), 1.0f);
  return hn::Div(one, hn::Add(one, exp_floats(hn::Neg(x))));
}

// max(x, 0) + log(1 + e) with e = exp(-|x|), the logarithm as the series of 2 atanh(s), s = e / (2 + e) <= 1/3: within
// 1e-9 of it.
HWY_INLINE FloatVec softplus(FloatVec x) {
  const FloatTag tag;
  const FloatVec e = exp_floats(hn::Neg(hn::Abs(x)));
  const FloatVec s = hn::Div(e, hn::Add(hn::Set(tag, 2.0f), e));
  const FloatVec square = hn::Mul(s, s);
  FloatVec sum = hn::Set(tag, 1.0f / 17);
  for (const float odd : {15.0f, 13.0f, 11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f}) {
    sum = hn::MulAdd(sum, square, hn::Set(tag, 1 / odd));
  }
  return hn::MulAdd(hn::Add(s, s), sum, hn::Max(x, hn::Zero(tag)));
}

// 1 - exp(x) for x <= 0. Near 0 by its series: the difference of two numbers near 1 would have few digits left.
HWY_INLINE FloatVec one_minus_exp(FloatVec x) {
  const FloatTag tag;
  FloatVec series = hn::Set(tag, 1.0f / 40320);
  for (const float factorial : {5040.0f, 720.0f, 120.0f, 24.0f, 6.0f, 2.0f, 1.0f}) {
    series = hn::MulAdd(series, x, hn::Set(tag, 1 / factorial));
  }
  const FloatVec far = hn::Sub(hn::Set(tag, 1.0f), exp_floats(x));
  return hn::IfThenElse(hn::Gt(x, hn::Set(tag, -0.5f)), hn::NegMulAdd(series, x, hn::Zero(tag)), far);
}

// Channels [first, first + count) of one row; `rate` holds -8 softplus of theirs.
template <typename T>
void scan_row(const RglruArgs& args, std::int64_t b, std::int64_t first, std::size_t count, const float* rate) {
  const FloatTag tag;
  const std::int64_t start = b * args.length * args.width + first;
  float* const h = args.h_out + b * args.width + first;
  if (args.h != args.h_out) std::copy_n(args.h + b * args.width + first, count, h);
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t at = start + t * args.width;
    for (std::size_t c = 0; c < count; c += hn::Lanes(tag)) {
      const auto load = [&](const void* data)
                            HWY_ATTR { return load_first(static_cast<const T*>(data) + at + c, count - c); };
      const FloatVec log_a = hn::Mul(hn::LoadU(tag, rate + c), sigmoid(load(args.r)));
      const FloatVec gain = hn::Sqrt(one_minus_exp(hn::Add(log_a, log_a)));
      const FloatVec input = hn::Mul(hn::Mul(gain, sigmoid(load(args.i))), load(args.x));
      const FloatVec next = hn::MulAdd(exp_floats(log_a), load_first(h + c, count - c), input);
      store_first(next, count - c, h + c);
      store_first(next, count - c, static_cast<T*>(args.y) + at + c);
    }
  }
}

void scan_task(const RglruArgs& args, const Tasks& tasks, std::int64_t task) {
  const std::int64_t first = task % tasks.blocks * kChannels;
  const auto count = static_cast<std::size_t>(std::min(kChannels, args.width - first));
  const std::int64_t row = task / tasks.blocks;
  const std::int64_t rows = tasks.groups == 1 ? args.batch : 1;
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    const FloatTag tag;
    HWY_ALIGN float rate[kChannels + HWY_MAX_LANES_D(FloatTag)];
    for (std::size_t c = 0; c < count; c += hn::Lanes(tag)) {
      const FloatVec own = softplus(load_first(static_cast<const T*>(args.rate) + first + c, count - c));
      hn::Store(hn::Mul(hn::Set(tag, -8.0f), own), tag, rate + c);
    }
    for (std::int64_t b = row; b < row + rows; ++b) scan_row<T>(args, b, first, count, rate);
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(scan_task);

void rglru(const RglruArgs& args, const ParallelFor& pool) {
  // Fewer elements than this one thread handles about as quickly as it hands work to others.
  constexpr std::int64_t kFew = 1 << 13;
  const Tasks tasks(args);
  const ParallelFor& parallel_for = args.batch * args.length * args.width < kFew ? ParallelFor() : pool;
  parallel_for(static_cast<std::size_t>(tasks.count()), [&](std::size_t task) {
    HWY_DYNAMIC_DISPATCH(scan_task)(args, tasks, static_cast<std::int64_t>(task));
  });
}

}  // namespace hsm
#endif  // HWY_ONCE
