#include "hsm_operators/causal_taylor_shift/cuda.gen.h"

#include <algorithm>

#include "hsm_operators/causal_taylor_shift/cuda.cuh"

namespace hsm::cuda {
namespace {

enum CausalTactic { kStep, kChunk, kChunkTensor, kTacticCount };

constexpr std::string_view kNames[kTacticCount] = {"step", "chunk", "chunk-tensor"};

// Tokens that `step` takes at most, and those of its two instances.
constexpr int kStepTokens[] = {1, 8};
constexpr int kMostStepTokens = 8;
// Rows of the state that a slice has at least.
constexpr std::int64_t kLeastSlice = 64;

// About half as many tokens as there are features: then attending within a segment costs about a quarter of what the
// state costs, and the slots of all segments together are of the size of a few inputs.
constexpr std::int64_t kLeastSegment = 128;
constexpr std::int64_t kMostSegment = 2048;

bool is_empty(const CausalTaylorShiftArgs& args) {
  return args.batch == 0 || args.length == 0 || args.heads == 0 || args.dim == 0 || args.value_dim == 0;
}

TaylorUnit unit_of(int tactic) { return tactic == kChunkTensor ? TaylorUnit::kTensor : TaylorUnit::kSimt; }

std::int64_t segment_length(std::int64_t dim) {
  return std::clamp(divide_up(taylor_features(dim) / 2, kQueryTile) * kQueryTile, kLeastSegment, kMostSegment);
}

// The tokens that the instance for a call of this length takes.
int step_tokens(std::int64_t length) { return length <= kStepTokens[0] ? kStepTokens[0] : kStepTokens[1]; }

// Slices of a head beyond those that fill the device once which are tried, too.
constexpr std::int64_t kMoreSlices = 3;

// Slices of each head: about as many as fill the device once, and of those near it the number whose last wave is the
// fullest. One wave and a bit would take as long as two.
std::int64_t slice_count(const CausalTaylorShiftArgs& args, const Device& device) {
  const std::int64_t heads = args.batch * args.heads;
  const std::int64_t wave = static_cast<std::int64_t>(kStepBlocks) * device.multiprocessors;
  const std::int64_t most = divide_up(taylor_features(args.dim), kLeastSlice);
  const auto fill = [&](std::int64_t slices) {
    return static_cast<double>(slices * heads) / static_cast<double>(divide_up(slices * heads, wave) * wave);
  };
  std::int64_t best = std::clamp<std::int64_t>(wave / heads, 1, most);
  for (std::int64_t slices = best + 1; slices <= std::min(wave / heads + kMoreSlices, most); ++slices) {
    if (fill(slices) > fill(best)) best = slices;
  }
  return best;
}

TaylorCall call_of(const CausalTaylorShiftArgs& args) {
  TaylorCall call;
  call.q = args.q;
  call.k = args.k;
  call.v = args.v;
  call.temperature = args.temperature;
  call.lengths = args.lengths;
  call.y = args.y;
  call.length = args.length;
  call.heads = args.heads;
  call.dim = static_cast<int>(args.dim);
  call.value_dim = static_cast<int>(args.value_dim);
  call.features = static_cast<int>(taylor_features(args.dim));
  call.normalize = args.normalize;
  call.causal = true;
  call.state = args.state;
  call.norm = args.norm;
  call.state_out = args.state_out;
  call.norm_out = args.norm_out;
  return call;
}

// True if rows of the state, old and new, start at multiples of 16 bytes.
bool has_aligned_rows(const TaylorCall& call) {
  constexpr std::uintptr_t kBytes = 16;
  const auto starts = [](const float* rows) { return reinterpret_cast<std::uintptr_t>(rows) % kBytes == 0; };
  return call.value_dim % 4 == 0 && starts(call.state) && starts(call.state_out);
}

// Calls body(tokens, how rows are loaded): an integral constant and a RowLoads.
template <typename Body>
int with_step(const TaylorCall& call, Body&& body) {
  const auto with_loads = [&](auto tokens) -> int {
    if (!has_aligned_rows(call)) return body(tokens, AnyRows());
    if (call.value_dim <= 32 * NarrowRows::kColumns) return body(tokens, NarrowRows());
    return body(tokens, WideRows());
  };
  if (step_tokens(call.length) == kStepTokens[0]) return with_loads(std::integral_constant<int, kStepTokens[0]>());
  return with_loads(std::integral_constant<int, kStepTokens[1]>());
}

int launch_step(const CausalTaylorShiftArgs& args, const Device& device, void* workspace, Stream stream) {
  TaylorCall call = call_of(args);
  call.head_count = args.batch * args.heads;
  call.sums = static_cast<float*>(workspace);
  call.segment_length = divide_up(call.features, slice_count(args, device));
  call.segments = divide_up(call.features, call.segment_length);
  const dim3 slices(static_cast<unsigned>(call.segments * call.head_count));
  const dim3 tokens_of_heads(static_cast<unsigned>(call.length * call.head_count));
  return with_element(args.type, [&](auto element) {
    return with_step(call, [&](auto tokens, auto loads) -> int {
      using T = decltype(element);
      constexpr int kTokens = decltype(tokens)::value;
      const int error = HSM_LAUNCH((causal_taylor_step<T, kTokens, decltype(loads)>), slices, dim3(kStepThreads),
                                   step_shared_bytes(call.dim, call.value_dim, kTokens), stream, call);
      if (error != 0) return error;
      return HSM_LAUNCH((causal_taylor_step_finish<T, kTokens>), tokens_of_heads, dim3(kStepThreads), 0, stream, call);
    });
  });
}

}  // namespace

std::span<const std::string_view> causal_taylor_shift_tactics() noexcept { return kNames; }

bool causal_taylor_shift_supports(const CausalTaylorShiftArgs& args, int tactic, const Device& device) noexcept {
  if (tactic < 0 || tactic >= kTacticCount) return false;
  if (tactic != kStep) {
    return taylor_unit_supports(unit_of(tactic), args.type, args.length, args.dim, args.value_dim, args.normalize, true,
                                true, device);
  }
  const std::int64_t blocks = args.batch * args.heads * std::max(taylor_features(args.dim), args.length);
  return args.type != DType::kInt64 && std::min(args.dim, args.value_dim) >= 1 &&
         std::max(args.dim, args.value_dim) <= kMostTaylorDim && args.length <= kMostStepTokens &&
         blocks <= INT32_MAX &&
         step_shared_bytes(static_cast<int>(args.dim), static_cast<int>(args.value_dim), step_tokens(args.length)) <=
             device.shared_memory_per_block;
}

int causal_taylor_shift_default_tactic(const CausalTaylorShiftArgs& args, const Device& device) noexcept {
  if (causal_taylor_shift_supports(args, kStep, device)) return kStep;
  return causal_taylor_shift_supports(args, kChunkTensor, device) ? kChunkTensor : kChunk;
}

std::size_t causal_taylor_shift_workspace(const CausalTaylorShiftArgs& args, int tactic,
                                          const Device& device) noexcept {
  if (is_empty(args) || tactic < 0 || tactic >= kTacticCount) return 0;
  const std::int64_t heads = args.batch * args.heads;
  if (tactic == kStep) {
    // Slices of all heads, and the constants' parts.
    const std::int64_t parts =
        static_cast<std::int64_t>(kStepBlocks) * device.multiprocessors + (kMoreSlices + 1) * heads;
    return static_cast<std::size_t>(parts * kMostStepTokens * step_part(static_cast<int>(args.value_dim))) *
           sizeof(float);
  }
  return sum_bytes(heads * divide_up(args.length, segment_length(args.dim)), args.dim, args.value_dim);
}

int causal_taylor_shift_launch(const CausalTaylorShiftArgs& args, int tactic, const Device& device, void* workspace,
                               Stream stream) noexcept {
  if (is_empty(args)) return 0;
  if (!causal_taylor_shift_supports(args, tactic, device)) return kInvalidValue;
  if (tactic == kStep) return launch_step(args, device, workspace, stream);
  const std::int64_t heads = args.batch * args.heads;
  const SumsPlan plan =
      plan_sums(heads, args.length, args.dim, args.value_dim, segment_length(args.dim), unit_of(tactic));
  return launch_with_sums(call_of(args), heads, plan, args.type, unit_of(tactic), workspace, stream);
}

}  // namespace hsm::cuda
