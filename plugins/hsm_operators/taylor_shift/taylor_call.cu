#include "hsm_operators/taylor_shift/taylor_call.h"

#include <algorithm>

#include "hsm_operators/taylor_shift/taylor_combine.cuh"
#include "hsm_operators/taylor_shift/taylor_launch.h"

namespace hsm::cuda {

bool taylor_unit_supports(TaylorUnit unit, DType type, std::int64_t length, std::int64_t dim, std::int64_t value_dim,
                          bool normalize, bool sums, bool keys, const Device& device) noexcept {
  if (length > INT32_MAX - kQueryTile) return false;  // kernels count the tokens of a head in 32 bits
  if (std::min(dim, value_dim) < 1 || std::max(dim, value_dim) > kMostTaylorDim || type == DType::kInt64) return false;
  if (unit == TaylorUnit::kSimt) return simt_shared_bytes(dim, value_dim) <= device.shared_memory_per_block;
  // Weights of vectors of any length do not fit into float16. Sums are multiplied as bfloat16.
  if (type == DType::kFloat16 && !normalize) return false;
  if (!has_tensor_cores(device, sums ? DType::kBFloat16 : type) || type == DType::kFloat32) return false;
  const std::size_t bytes = std::max(tensor_attend_bytes(dim, value_dim, sums, keys),
                                     sums ? tensor_accumulate_bytes(dim, value_dim) : std::size_t{0});
  return bytes <= device.shared_memory_per_block;
}

std::int64_t feature_tile(TaylorUnit unit, std::int64_t dim, std::int64_t value_dim) noexcept {
  constexpr std::int64_t kSimtFeatures = 64;
  return unit == TaylorUnit::kTensor ? tensor_feature_tile(dim, value_dim) : kSimtFeatures;
}

std::int64_t accumulate_blocks(TaylorUnit unit, std::int64_t dim, std::int64_t value_dim,
                               std::size_t shared_memory) noexcept {
  constexpr std::size_t kReserved = 1024;  // bytes of each block that the driver keeps
  const bool tensor = unit == TaylorUnit::kTensor;
  const std::size_t bytes = tensor ? tensor_accumulate_bytes(dim, value_dim) : simt_shared_bytes(dim, value_dim);
  const std::int64_t width = std::max(dim, value_dim);
  std::int64_t by_registers = kMostSumBlocks;
  if (tensor) {
    by_registers = width <= 32 ? 4 : 1;
  } else if (width > 64) {
    by_registers = width <= 128 ? 3 : 2;
  }
  const std::size_t by_memory = (shared_memory + kReserved) / (bytes + kReserved);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(by_memory), 1, by_registers);
}

SumsPlan plan_sums(std::int64_t heads, std::int64_t length, std::int64_t dim, std::int64_t value_dim,
                   std::int64_t segment_length, TaylorUnit unit) noexcept {
  const std::int64_t bytes = slot_floats(dim, value_dim) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most = std::max<std::int64_t>(kMostSumBytes / bytes, 1);
  const std::int64_t least_length = std::max(segment_length, divide_up(length, most));
  SumsPlan plan;
  plan.segment_length = divide_up(least_length, kQueryTile) * kQueryTile;
  plan.segments = divide_up(length, plan.segment_length);
  // Blocks of the largest grid for each head.
  const std::int64_t features = taylor_features(dim);
  const std::int64_t blocks = std::max({divide_up(features, feature_tile(unit, dim, value_dim)) * plan.segments,
                                        divide_up(length, kLeastQueryTile), features});
  const std::int64_t group = std::clamp<std::int64_t>(std::min(most / plan.segments, INT32_MAX / blocks), 1, heads);
  // As many rounds as that makes, all of about the same size: a last one of a few heads costs nearly as much as a full
  // one and leaves most of the device idle.
  plan.group = divide_up(heads, divide_up(heads, group));
  return plan;
}

std::size_t sum_bytes(std::int64_t slots, std::int64_t dim, std::int64_t value_dim) noexcept {
  const std::int64_t bytes = slot_floats(dim, value_dim) * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::size_t>(std::max(std::min(slots * bytes, kMostSumBytes), bytes));
}

int launch_with_sums(TaylorCall call, std::int64_t heads, const SumsPlan& plan, DType type, TaylorUnit unit,
                     void* workspace, Stream stream) noexcept {
  call.sums = static_cast<float*>(workspace);
  call.segments = plan.segments;
  call.segment_length = plan.segment_length;
  call.slot = slot_floats(call.dim, call.value_dim);
  call.feature_tiles = static_cast<int>(divide_up(call.features, feature_tile(unit, call.dim, call.value_dim)));
  for (std::int64_t first = 0; first < heads; first += plan.group) {
    call.first_head = first;
    call.head_count = std::min(plan.group, heads - first);
    if (const int error = launch_accumulate(call, type, unit, stream); error != 0) return error;
    if (const int error = launch_combine(call, unit, stream); error != 0) return error;
    if (const int error = launch_attend(call, type, unit, stream); error != 0) return error;
  }
  return 0;
}

int launch_accumulate(const TaylorCall& call, DType type, TaylorUnit unit, Stream stream) noexcept {
  return unit == TaylorUnit::kTensor ? launch_accumulate_tensor(call, type, stream)
                                     : launch_accumulate_simt(call, type, stream);
}

int launch_combine(const TaylorCall& call, TaylorUnit unit, Stream stream) noexcept {
  const dim3 grid(static_cast<unsigned>(divide_up(call.head_count * call.features, kCombineWarps)));
  const dim3 block(32 * kCombineWarps);
  return unit == TaylorUnit::kTensor ? HSM_LAUNCH(taylor_combine<true>, grid, block, 0, stream, call)
                                     : HSM_LAUNCH(taylor_combine<false>, grid, block, 0, stream, call);
}

int launch_attend(const TaylorCall& call, DType type, TaylorUnit unit, Stream stream) noexcept {
  return unit == TaylorUnit::kTensor ? launch_attend_tensor(call, type, stream)
                                     : launch_attend_simt(call, type, stream);
}

}  // namespace hsm::cuda
