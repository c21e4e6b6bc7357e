#include <algorithm>
#include <type_traits>

#include "hsm_operators/decayed_linear_attention/cuda.cuh"
#include "hsm_operators/decayed_linear_attention/cuda.gen.h"

namespace hsm::cuda {
namespace {

enum DecayedTactic { kScan, kSegments, kTacticCount };

constexpr std::string_view kNames[kTacticCount] = {"scan", "segments"};

// Columns of a warp, and of the largest block.
constexpr std::int64_t kWarpColumns = 16;
constexpr std::int64_t kMostWarps = kDecayedThreads / 32;
// Tokens that a segment has at least, and segments that are worth the second look at their keys.
constexpr std::int64_t kLeastSegment = 64;
constexpr std::int64_t kLeastSegments = 3;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_empty(const DecayedLinearAttentionArgs& args) {
  return args.batch == 0 || args.length == 0 || args.heads == 0 || args.key_dim == 0 || args.value_dim == 0;
}

// Blocks that keep the device busy.
std::int64_t wanted_blocks(const Device& device) { return 2 * std::int64_t{device.multiprocessors}; }

// Warps of a block: the most that its columns need, but fewer while the blocks do not fill the device.
std::int64_t warps_of(const DecayedLinearAttentionArgs& args, std::int64_t segments, const Device& device) {
  if (args.value_dim == 1) return 1;
  std::int64_t warps = kMostWarps;
  const auto tiles = [&] { return divide_up(args.value_dim, kWarpColumns * warps); };
  while (warps > 1 && kWarpColumns * warps / 2 >= args.value_dim) warps /= 2;
  while (warps > 1 && args.batch * args.heads * segments * tiles() < wanted_blocks(device)) warps /= 2;
  return warps;
}

// Segments of each row, 1 where they bring nothing.
std::int64_t segments_of(const DecayedLinearAttentionArgs& args, const Device& device) {
  if (args.a != nullptr || args.key_dim == 1 || args.value_dim == 1) return 1;
  const std::int64_t tiles = divide_up(args.value_dim, kWarpColumns * kMostWarps);
  const std::int64_t wanted = divide_up(wanted_blocks(device), args.batch * args.heads * tiles);
  return std::clamp<std::int64_t>(args.length / kLeastSegment, 1, wanted);
}

DecayedCall call_of(const DecayedLinearAttentionArgs& args, std::int64_t segments, void* workspace) {
  DecayedCall call{};
  call.q = args.q;
  call.k = args.k;
  call.v = args.v;
  call.log_decay = args.log_decay;
  call.a = args.a;
  call.b = args.b;
  call.state = args.state;
  call.lengths = args.lengths;
  call.y = args.y;
  call.state_out = args.state_out;
  call.length = args.length;
  call.heads = args.heads;
  call.channels = args.batch * args.heads;
  call.key_dim = static_cast<int>(args.key_dim);
  call.value_dim = static_cast<int>(args.value_dim);
  call.decay_dim = static_cast<int>(args.decay_dim);
  call.exclusive = args.exclusive;
  call.segment_length = divide_up(args.length, segments);
  call.segments = divide_up(args.length, call.segment_length);
  call.states = static_cast<float*>(workspace);
  call.decays = call.states + call.channels * call.segments * args.key_dim * args.value_dim;
  return call;
}

template <typename T, int kSide, int kKeyBlocks, DecayedRule kRule>
int launch_scan(const DecayedCall& call, std::int64_t warps, Stream stream) {
  const std::int64_t columns = warps * kSide * kSide;
  const std::int64_t segments = kRule == DecayedRule::kSums ? call.segments - 1 : call.segments;
  const std::int64_t blocks = call.channels * segments * divide_up(call.value_dim, columns);
  return HSM_LAUNCH((decayed_scan<T, kKeyBlocks, kSide, static_cast<int>(kRule)>), dim3(static_cast<unsigned>(blocks)),
                    dim3(static_cast<unsigned>(32 * warps)),
                    decayed_shared_bytes(kRule, kKeyBlocks, static_cast<int>(columns)), stream, call);
}

// One number for each of `count` threads.
unsigned blocks_of(std::int64_t count) { return static_cast<unsigned>(divide_up(count, kDecayedThreads)); }

template <typename T, int kSide, int kKeyBlocks>
int launch_rule(const DecayedCall& call, std::int64_t warps, Stream stream) {
  if constexpr (kSide > 1) {
    if (call.segments > 1) {
      int error = launch_scan<T, kSide, kKeyBlocks, DecayedRule::kSums>(call, warps, stream);
      if (error != 0) return error;
      const std::int64_t numbers = call.channels * call.key_dim * call.value_dim;
      error = HSM_LAUNCH(decayed_carry, dim3(blocks_of(numbers)), dim3(kDecayedThreads), 0, stream, call);
      if (error != 0) return error;
    }
  }
  if (call.a != nullptr) return launch_scan<T, kSide, kKeyBlocks, DecayedRule::kDelta>(call, warps, stream);
  if (call.exclusive) return launch_scan<T, kSide, kKeyBlocks, DecayedRule::kExclusive>(call, warps, stream);
  return launch_scan<T, kSide, kKeyBlocks, DecayedRule::kInclusive>(call, warps, stream);
}

template <typename T>
int launch_numbers(DecayedCall call, Stream stream) {
  call.channels *= call.value_dim;
  return HSM_LAUNCH(decayed_numbers<T>, dim3(blocks_of(call.channels)), dim3(kDecayedThreads), 0, stream, call);
}

// Whether sizes and shared memory are in the kernels' range. Not asked of the pointers: tactics are chosen before there
// are any.
bool fits(const DecayedLinearAttentionArgs& args, std::int64_t segments, DecayedRule rule, const Device& device) {
  if (args.type == DType::kInt64 || args.key_dim < 1 || args.value_dim < 1 || args.key_dim > kMostDecayedKeys ||
      args.value_dim > INT32_MAX / 2) {
    return false;
  }
  const std::int64_t numbers = args.batch * args.heads * args.key_dim * args.value_dim * segments;
  return numbers <= INT32_MAX &&
         decayed_shared_bytes(rule, kMostDecayedKeys / 32, kWarpColumns * kMostWarps) <= device.shared_memory_per_block;
}

}  // namespace

std::span<const std::string_view> decayed_linear_attention_tactics() noexcept { return kNames; }

bool decayed_linear_attention_supports(const DecayedLinearAttentionArgs& args, int tactic,
                                       const Device& device) noexcept {
  if (tactic < 0 || tactic >= kTacticCount) return false;
  const std::int64_t segments = tactic == kSegments && !is_empty(args) ? segments_of(args, device) : 1;
  if (tactic == kSegments && segments < 2) return false;
  return fits(args, segments, args.a == nullptr ? DecayedRule::kInclusive : DecayedRule::kDelta, device);
}

int decayed_linear_attention_default_tactic(const DecayedLinearAttentionArgs& args, const Device& device) noexcept {
  const bool divided = !is_empty(args) && segments_of(args, device) >= kLeastSegments;
  return divided && decayed_linear_attention_supports(args, kSegments, device) ? kSegments : kScan;
}

std::size_t decayed_linear_attention_workspace(const DecayedLinearAttentionArgs& args, int tactic,
                                               const Device& device) noexcept {
  if (is_empty(args) || tactic != kSegments || args.length < 2 * kLeastSegment) return 0;
  // As many segments as are wanted, each head's rounded up: no less for fewer heads, which have more segments each.
  const std::int64_t heads = args.batch * args.heads;
  const std::int64_t slots = std::min(heads * (args.length / kLeastSegment), heads + wanted_blocks(device));
  return static_cast<std::size_t>(slots * args.key_dim * (args.value_dim + 1)) * sizeof(float);
}

int decayed_linear_attention_launch(const DecayedLinearAttentionArgs& args, int tactic, const Device& device,
                                    void* workspace, Stream stream) noexcept {
  if (is_empty(args)) return 0;
  if (!decayed_linear_attention_supports(args, tactic, device)) return kInvalidValue;
  const std::int64_t segments = tactic == kSegments ? segments_of(args, device) : 1;
  const DecayedCall call = call_of(args, segments, workspace);
  const std::int64_t warps = warps_of(args, call.segments, device);
  return with_element(args.type, [&](auto element) -> int {
    using T = decltype(element);
    if (args.key_dim == 1) return launch_numbers<T>(call, stream);
    if (args.value_dim == 1) return launch_rule<T, 1, kMostDecayedKeys / 32>(call, warps, stream);
    if (args.key_dim <= 128) return launch_rule<T, 4, 4>(call, warps, stream);
    return launch_rule<T, 4, 8>(call, warps, stream);
  });
}

// The delta rule: what a token removes depends on the state before it, so there are no segments.
std::span<const std::string_view> decayed_delta_rule_tactics() noexcept { return std::span(kNames).first(1); }

bool decayed_delta_rule_supports(const DecayedLinearAttentionArgs& args, int tactic, const Device& device) noexcept {
  return tactic == kScan && fits(args, 1, DecayedRule::kDelta, device);
}

int decayed_delta_rule_default_tactic(const DecayedLinearAttentionArgs& /*args*/, const Device& /*device*/) noexcept {
  return kScan;
}

std::size_t decayed_delta_rule_workspace(const DecayedLinearAttentionArgs& /*args*/, int /*tactic*/,
                                         const Device& /*device*/) noexcept {
  return 0;
}

int decayed_delta_rule_launch(const DecayedLinearAttentionArgs& args, int tactic, const Device& device, void* workspace,
                              Stream stream) noexcept {
  return decayed_linear_attention_launch(args, tactic, device, workspace, stream);
}

}  // namespace hsm::cuda
