// A task takes some channels of one row, or of all rows where a row is short, token by token. The last K products of a
// channel stay in the cache, as a ring.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "short_convolution/args.gen.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "short_convolution/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/partial-inl.h"
#include "hsm_operators/common/cpu/scratch.h"

#ifndef HSM_SHORT_CONVOLUTION_CC_
#define HSM_SHORT_CONVOLUTION_CC_
namespace hsm {
namespace {

constexpr std::int64_t kChannels = 256;
// From this many tokens on, sorting the weights costs little beside them.
constexpr std::int64_t kLongRow = 16;

// How a call is split, by its shape alone.
struct Tasks {
  explicit Tasks(const GatedShortConvolutionArgs& args)
      : blocks((args.width + kChannels - 1) / kChannels), groups(args.length < kLongRow ? 1 : args.batch) {}

  std::int64_t count() const { return blocks * groups; }

  std::int64_t blocks;  // of channels
  std::int64_t groups;  // of rows
};

}  // namespace
}  // namespace hsm
#endif  // HSM_SHORT_CONVOLUTION_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Channels [first, first + count): the weights of each tap, and of one row the products of the last K tokens, the token
// t's at slot t mod K; all in rows of kChannels.
template <typename T>
class Channels {
 public:
  Channels(const GatedShortConvolutionArgs& args, std::int64_t first)
      : args_(args),
        first_(first),
        count_(static_cast<std::size_t>(std::min(kChannels, args.width - first))),
        taps_(static_cast<std::size_t>(args.K)),
        buffers_({taps_ * kChannels, taps_ * kChannels}) {
    const T* const weight = static_cast<const T*>(args.weight) + static_cast<std::size_t>(first) * taps_;
    for (std::size_t tap = 0; tap < taps_; ++tap) {
      for (std::size_t c = 0; c < count_; ++c) weights(tap)[c] = to_float(weight[c * taps_ + tap]);
    }
  }

  void run(std::int64_t row) {
    for (std::size_t i = 0; i + 1 < taps_; ++i) std::copy_n(tail(args_.tail, row, i), count_, slot(i + 1));
    const auto tokens = static_cast<std::size_t>(args_.lengths[row]);
    for (std::size_t t = 0; t < tokens; ++t) step(row, t);
    // In place too: all of the old tail that is still needed is in the slots.
    for (std::size_t i = 0; i + 1 < taps_; ++i) std::copy_n(slot(tokens + i + 1), count_, tail(args_.tail_out, row, i));
  }

 private:
  void step(std::int64_t row, std::size_t t) {
    const FloatTag tag;
    const std::size_t at =
        static_cast<std::size_t>(row * args_.length * args_.width + first_) + t * static_cast<std::size_t>(args_.width);
    float* const own = slot(t);
    for (std::size_t c = 0; c < count_; c += hn::Lanes(tag)) {
      const auto load = [&](const void* data)
                            HWY_ATTR { return load_first(static_cast<const T*>(data) + at + c, count_ - c); };
      const FloatVec product = hn::Mul(load(args_.b), load(args_.x));
      hn::StoreU(product, tag, own + c);
      FloatVec sum = hn::Mul(product, hn::LoadU(tag, weights(taps_ - 1) + c));
      for (std::size_t back = 1; back < taps_; ++back) {
        const FloatVec earlier = hn::LoadU(tag, slot(t + taps_ - back) + c);
        sum = hn::MulAdd(earlier, hn::LoadU(tag, weights(taps_ - 1 - back) + c), sum);
      }
      store_first(hn::Mul(load(args_.c), sum), count_ - c, static_cast<T*>(args_.y) + at + c);
    }
  }

  float* weights(std::size_t tap) const { return buffers_[0] + tap * kChannels; }
  float* slot(std::size_t t) const { return buffers_[1] + t % taps_ * kChannels; }
  template <typename Float>
  Float* tail(Float* data, std::int64_t row, std::size_t i) const {
    return data + (row * args_.ring_rows + static_cast<std::int64_t>(i)) * args_.width + first_;
  }

  const GatedShortConvolutionArgs& args_;
  std::int64_t first_;
  std::size_t count_;
  std::size_t taps_;
  cpu::ScratchBuffers<2> buffers_;
};

void convolve_task(const GatedShortConvolutionArgs& args, const Tasks& tasks, std::int64_t task) {
  const std::int64_t row = task / tasks.blocks;
  const std::int64_t rows = tasks.groups == 1 ? args.batch : 1;
  cpu::with_element(args.type, [&](auto element) {
    Channels<decltype(element)> channels(args, task % tasks.blocks * kChannels);
    for (std::int64_t b = row; b < row + rows; ++b) channels.run(b);
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(convolve_task);

void gated_short_convolution(const GatedShortConvolutionArgs& args, const ParallelFor& pool) {
  // Fewer elements than this one thread handles about as quickly as it hands work to others.
  constexpr std::int64_t kFew = 1 << 15;
  const Tasks tasks(args);
  const ParallelFor& parallel_for = args.batch * args.length * args.width < kFew ? ParallelFor() : pool;
  parallel_for(static_cast<std::size_t>(tasks.count()), [&](std::size_t task) {
    HWY_DYNAMIC_DISPATCH(convolve_task)(args, tasks, static_cast<std::int64_t>(task));
  });
}

}  // namespace hsm
#endif  // HWY_ONCE
