#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "scale_mix/cuda.gen.h"

namespace hsm::cuda {
namespace {

constexpr std::string_view kNames[] = {"elements"};
constexpr int kThreads = 128;
constexpr std::int64_t kMostBlocks = 1 << 30;

template <typename T>
__global__ void scale(const T* x, const T* gain, T* y, std::int64_t count, std::int64_t width, float times) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) y[i] = from_float<T>(to_float(x[i]) * (to_float(gain[i % width]) * times));
}

std::int64_t blocks_of(const ScaleMixArgs& args) {
  return (args.batch * args.length * args.width + kThreads - 1) / kThreads;
}

}  // namespace

std::span<const std::string_view> scale_mix_tactics() noexcept { return kNames; }

bool scale_mix_supports(const ScaleMixArgs& args, int tactic, const Device& /*device*/) noexcept {
  return tactic == 0 && blocks_of(args) <= kMostBlocks;
}

int scale_mix_default_tactic(const ScaleMixArgs& /*args*/, const Device& /*device*/) noexcept { return 0; }

std::size_t scale_mix_workspace(const ScaleMixArgs& /*args*/, int /*tactic*/, const Device& /*device*/) noexcept {
  return 0;
}

int scale_mix_launch(const ScaleMixArgs& args, int tactic, const Device& device, void* /*workspace*/,
                     Stream stream) noexcept {
  if (!scale_mix_supports(args, tactic, device)) return kInvalidValue;
  const dim3 blocks(static_cast<unsigned>(blocks_of(args)));
  if (blocks.x == 0) return 0;
  return with_element(args.type, [&](auto element) {
    using T = decltype(element);
    return HSM_LAUNCH((scale<T>), blocks, kThreads, 0, stream, static_cast<const T*>(args.x),
                      static_cast<const T*>(args.gain), static_cast<T*>(args.y),
                      args.batch * args.length * args.width, args.width, static_cast<float>(args.times));
  });
}

}  // namespace hsm::cuda
