#include "hsm_operators/taylor_shift/cuda.gen.h"

#include <algorithm>

#include "hsm_operators/taylor_shift/taylor_call.h"

namespace hsm::cuda {
namespace {

struct Tactic {
  bool efficient;
  TaylorUnit unit;
};

constexpr std::string_view kNames[] = {"direct", "efficient", "direct-tensor", "efficient-tensor"};
constexpr Tactic kTactics[] = {
    {false, TaylorUnit::kSimt}, {true, TaylorUnit::kSimt}, {false, TaylorUnit::kTensor}, {true, TaylorUnit::kTensor}};

// Keys that a segment must have before splitting pays for adding one more slot.
constexpr std::int64_t kLeastSegment = 256;

bool is_empty(const TaylorShiftArgs& args) {
  return args.batch == 0 || args.length == 0 || args.heads == 0 || args.dim == 0 || args.value_dim == 0;
}

// Blocks of `accumulate` that a multiprocessor should get: so many that the last ones, when some multiprocessors are
// idle, are a small part.
constexpr std::int64_t kSumBlocks = 4;
// Segments beyond those that this takes which are tried, too, where the device is filled no more often than kMostWaves;
// above, the last wave is a small part anyway.
constexpr std::int64_t kMoreSegments = 3;
constexpr std::int64_t kMostWaves = 5;
constexpr double kFullEnough = 0.9;

std::int64_t sum_tiles(const TaylorShiftArgs& args, TaylorUnit unit) {
  return divide_up(taylor_features(args.dim), feature_tile(unit, args.dim, args.value_dim));
}

// Slots, one for each segment of each head, that give every multiprocessor kSumBlocks blocks.
std::int64_t wanted_slots(const TaylorShiftArgs& args, TaylorUnit unit, const Device& device) {
  return std::max(args.batch * args.heads, divide_up(kSumBlocks * device.multiprocessors, sum_tiles(args, unit)));
}

SumsPlan plan_with(const TaylorShiftArgs& args, TaylorUnit unit, std::int64_t segments) {
  return plan_sums(args.batch * args.heads, args.length, args.dim, args.value_dim,
                   std::max(divide_up(args.length, segments), kLeastSegment), unit);
}

// The fewest segments whose last wave of `accumulate` is full enough, else those whose is the fullest: a wave and a bit
// takes as long as two.
SumsPlan plan_of(const TaylorShiftArgs& args, TaylorUnit unit, const Device& device) {
  const std::int64_t fewest = divide_up(wanted_slots(args, unit, device), args.batch * args.heads);
  const std::int64_t wave =
      device.multiprocessors * accumulate_blocks(unit, args.dim, args.value_dim, device.shared_memory_per_block);
  const auto blocks_of = [&](const SumsPlan& plan) { return sum_tiles(args, unit) * plan.segments * plan.group; };
  const auto fill = [&](const SumsPlan& plan) {
    const std::int64_t blocks = blocks_of(plan);
    return static_cast<double>(blocks) / static_cast<double>(divide_up(blocks, wave) * wave);
  };
  SumsPlan best = plan_with(args, unit, fewest);
  for (std::int64_t more = 1; more <= kMoreSegments && fill(best) < kFullEnough; ++more) {
    const SumsPlan plan = plan_with(args, unit, fewest + more);
    if (blocks_of(plan) <= kMostWaves * wave && fill(plan) > fill(best)) best = plan;
  }
  return best;
}

TaylorCall call_of(const TaylorShiftArgs& args) {
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
  call.output_norm = args.output_norm;
  return call;
}

int launch_direct(const TaylorShiftArgs& args, TaylorUnit unit, Stream stream) {
  TaylorCall call = call_of(args);
  const std::int64_t heads = args.batch * args.heads;
  const std::int64_t group = std::max<std::int64_t>(INT32_MAX / divide_up(args.length, kLeastQueryTile), 1);
  for (call.first_head = 0; call.first_head < heads; call.first_head += group) {
    call.head_count = std::min(group, heads - call.first_head);
    if (const int error = launch_attend(call, args.type, unit, stream); error != 0) return error;
  }
  return 0;
}

// Multiply-adds of a multiprocessor in a cycle. Without tensor cores half of what its units can do; with them about
// what the ceilings in docs/cuda-report.md leave of mma.sync, less a fifth. No measurement went into it.
double rate_of(TaylorUnit unit, const Device& device) {
  if (unit == TaylorUnit::kSimt) return device.sm < 86 ? 32.0 : 64.0;
  switch (device.sm) {
    case 75:
      return 256.0;
    case 80:
    case 90:
    case 100:
      return 640.0;
    default:
      return 200.0;
  }
}

// Cycles that `blocks` blocks take of `work` multiply-adds each.
double cycles(double blocks, double work, TaylorUnit unit, const Device& device) {
  return std::max(1.0, blocks / device.multiprocessors) * work / rate_of(unit, device);
}

// Estimated cycles of a tactic. A model, not a fit: no measurement on a GPU went into it.
double cost(const TaylorShiftArgs& args, const Tactic& tactic, const Device& device) {
  constexpr double kLaunch = 4000.0;         // cycles of one more kernel
  constexpr double kBytesPerCycle = 1000.0;  // of the whole device
  const auto heads = static_cast<double>(args.batch * args.heads);
  const auto length = static_cast<double>(args.length);
  const auto channels = static_cast<double>(divide_up(args.dim, 16) * 16);
  const auto columns = static_cast<double>(divide_up(args.value_dim, 16) * 16);
  const double query_blocks = heads * static_cast<double>(divide_up(args.length, kQueryTile));
  if (!tactic.efficient) {
    return cycles(query_blocks, kQueryTile * length * (channels + columns), tactic.unit, device);
  }
  const SumsPlan plan = plan_of(args, tactic.unit, device);
  const std::int64_t tile = feature_tile(tactic.unit, args.dim, args.value_dim);
  const std::int64_t tiles = sum_tiles(args, tactic.unit);
  const auto padded = static_cast<double>(tiles * tile);
  const double sum_blocks = heads * static_cast<double>(tiles * plan.segments);
  const double sum_work = static_cast<double>(tile * plan.segment_length) * columns;
  const double slots = heads * static_cast<double>((plan.segments + 1) * slot_floats(args.dim, args.value_dim) * 4);
  return cycles(sum_blocks, sum_work, tactic.unit, device) + slots / kBytesPerCycle + 2 * kLaunch +
         cycles(query_blocks, kQueryTile * padded * columns, tactic.unit, device);
}

bool is_tactic(int tactic) { return tactic >= 0 && tactic < static_cast<int>(std::size(kTactics)); }

}  // namespace

std::span<const std::string_view> taylor_shift_tactics() noexcept { return kNames; }

bool taylor_shift_supports(const TaylorShiftArgs& args, int tactic, const Device& device) noexcept {
  if (!is_tactic(tactic)) return false;
  const Tactic& own = kTactics[tactic];
  return taylor_unit_supports(own.unit, args.type, args.length, args.dim, args.value_dim, args.normalize, own.efficient,
                              !own.efficient, device);
}

int taylor_shift_default_tactic(const TaylorShiftArgs& args, const Device& device) noexcept {
  if (is_empty(args)) return 0;
  int best = 0;
  for (int tactic = 1; tactic < static_cast<int>(std::size(kTactics)); ++tactic) {
    if (!taylor_shift_supports(args, tactic, device)) continue;
    if (cost(args, kTactics[tactic], device) < cost(args, kTactics[best], device)) best = tactic;
  }
  return best;
}

std::size_t taylor_shift_workspace(const TaylorShiftArgs& args, int tactic, const Device& device) noexcept {
  if (!is_tactic(tactic) || !kTactics[tactic].efficient || is_empty(args)) return 0;
  const TaylorUnit unit = kTactics[tactic].unit;
  const std::int64_t heads = args.batch * args.heads;
  const std::int64_t wanted = wanted_slots(args, unit, device);
  // What a better filled last wave may take is bounded by the device, not by the sizes.
  const std::int64_t filled = kMostWaves * kMostSumBlocks * device.multiprocessors / sum_tiles(args, unit);
  // Rounded up for each head.
  const std::int64_t slots = std::max(wanted + heads, std::min(wanted + (1 + kMoreSegments) * heads, filled));
  return sum_bytes(slots, args.dim, args.value_dim);
}

int taylor_shift_launch(const TaylorShiftArgs& args, int tactic, const Device& device, void* workspace,
                        Stream stream) noexcept {
  if (is_empty(args)) return 0;
  if (!taylor_shift_supports(args, tactic, device)) return kInvalidValue;
  const Tactic& own = kTactics[tactic];
  if (!own.efficient) return launch_direct(args, own.unit, stream);
  return launch_with_sums(call_of(args), args.batch * args.heads, plan_of(args, own.unit, device), args.type, own.unit,
                          workspace, stream);
}

}  // namespace hsm::cuda
