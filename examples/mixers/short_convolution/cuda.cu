#include "short_convolution/cuda.cuh"

#include <cstdint>
#include <limits>

#include "short_convolution/cuda.gen.h"

namespace hsm::cuda {
namespace {

enum Tactic { kTile, kToken, kTactics };

constexpr std::string_view kNames[kTactics] = {"tile", "token"};
constexpr std::int64_t kTileTokens = 8;
// Threads that keep a multiprocessor busy.
constexpr std::int64_t kBusyThreads = 1024;
constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// Whether batch * rows * width threads, one for each element at worst, fit a grid; without overflow for any sizes.
bool fits(const GatedShortConvolutionArgs& args, std::int64_t rows) {
  constexpr std::int64_t kMost = kMostBlocks * kConvolutionThreads;
  if (args.batch == 0 || args.width == 0 || rows == 0) return true;
  return args.batch <= kMost / args.width && args.batch * args.width <= kMost / rows;
}

// Channels of a thread: 16 bytes of them where sizes and addresses allow that, of the floats of the tail too.
template <typename T>
int count_of(const GatedShortConvolutionArgs& args) {
  constexpr int kCount = Vector<T>::kSize;
  for (const void* data :
       {args.b, args.c, args.x, static_cast<const void*>(args.tail), static_cast<const void*>(args.y)}) {
    if (reinterpret_cast<std::uintptr_t>(data) % (kCount * sizeof(float)) != 0) return 1;
  }
  return args.width % kCount == 0 ? kCount : 1;
}

template <typename T, int kCount, int kTokens>
int launch_tokens(const ConvolutionCall<T>& call, Stream stream) {
  const std::int64_t threads = call.batch * divide_up(call.length, kTokens) * call.vectors;
  if (threads == 0) return 0;
  const dim3 blocks(static_cast<unsigned>(divide_up(threads, kConvolutionThreads)));
  switch (call.taps) {
    case 2:
      return HSM_LAUNCH((convolve<T, kCount, kTokens, 2>), blocks, kConvolutionThreads, 0, stream, call);
    case 3:
      return HSM_LAUNCH((convolve<T, kCount, kTokens, 3>), blocks, kConvolutionThreads, 0, stream, call);
    case 4:
      return HSM_LAUNCH((convolve<T, kCount, kTokens, 4>), blocks, kConvolutionThreads, 0, stream, call);
    default:
      return HSM_LAUNCH((convolve<T, kCount, kTokens, 0>), blocks, kConvolutionThreads, 0, stream, call);
  }
}

template <typename T, int kCount>
int launch(const GatedShortConvolutionArgs& args, int tactic, Stream stream) {
  const ConvolutionCall<T> call{.b = static_cast<const T*>(args.b),
                                .c = static_cast<const T*>(args.c),
                                .x = static_cast<const T*>(args.x),
                                .weight = static_cast<const T*>(args.weight),
                                .tail = args.tail,
                                .lengths = args.lengths,
                                .y = static_cast<T*>(args.y),
                                .tail_out = args.tail_out,
                                .batch = args.batch,
                                .length = args.length,
                                .width = args.width,
                                .taps = args.K,
                                .vectors = args.width / kCount};
  const int error =
      tactic == kTile ? launch_tokens<T, kCount, kTileTokens>(call, stream) : launch_tokens<T, kCount, 1>(call, stream);
  if (error != 0) return error;
  const dim3 blocks(static_cast<unsigned>(divide_up(args.batch * args.width, kConvolutionThreads)));
  return HSM_LAUNCH((convolution_tail<T>), blocks, kConvolutionThreads, 0, stream, call);
}

}  // namespace

std::span<const std::string_view> gated_short_convolution_tactics() noexcept { return kNames; }

bool gated_short_convolution_supports(const GatedShortConvolutionArgs& args, int tactic,
                                      const Device& /*device*/) noexcept {
  if (tactic < 0 || tactic >= kTactics) return false;
  return fits(args, 1) && fits(args, tactic == kTile ? divide_up(args.length, kTileTokens) : args.length);
}

int gated_short_convolution_default_tactic(const GatedShortConvolutionArgs& args, const Device& device) noexcept {
  const auto vector = static_cast<std::int64_t>(16 / size_of(args.type));
  const std::int64_t rows = args.batch * divide_up(args.length, kTileTokens);
  const bool busy = rows * divide_up(args.width, vector) >= kBusyThreads * device.multiprocessors;
  return busy || !gated_short_convolution_supports(args, kToken, device) ? kTile : kToken;
}

std::size_t gated_short_convolution_workspace(const GatedShortConvolutionArgs& /*args*/, int /*tactic*/,
                                              const Device& /*device*/) noexcept {
  return 0;
}

int gated_short_convolution_launch(const GatedShortConvolutionArgs& args, int tactic, const Device& device,
                                   void* /*workspace*/, Stream stream) noexcept {
  if (!gated_short_convolution_supports(args, tactic, device)) return kInvalidValue;
  if (args.batch == 0 || args.width == 0) return 0;
  return with_element(args.type, [&](auto element) {
    using T = decltype(element);
    constexpr int kMost = Vector<T>::kSize;
    return count_of<T>(args) == 1 ? launch<T, 1>(args, tactic, stream) : launch<T, kMost>(args, tactic, stream);
  });
}

}  // namespace hsm::cuda
