// What the kernels of TaylorShift and CausalTaylorShift share on the host: one call as the kernels see it, the layout
// of the sums in the workspace, and the launchers. No CUDA header in here.
//
// Both operators are at most three kernels:
//
//   accumulate   sums of phi(k) [v | 1] over the keys of a segment, one slot of the workspace for each segment
//   combine      adds slots in their order: all of them (bidirectional), or those before each segment (causal)
//   attend       queries times sums, and/or queries times keys by the polynomial itself
//
// Keys are split into segments and queries into tiles by shape alone, and every sum has one order: the same input gives
// the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/common/cuda/device.h"

namespace hsm::cuda {

// Of heads, and of their values.
inline constexpr std::int64_t kMostTaylorDim = 256;

// Queries of a block of `attend`, at least and at most; a segment is a multiple of the latter.
inline constexpr std::int64_t kLeastQueryTile = 16;
inline constexpr std::int64_t kQueryTile = 128;

struct TaylorCall {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* temperature = nullptr;
  const std::int64_t* lengths = nullptr;  // on the device, or null
  void* y = nullptr;
  std::int64_t length = 0;
  std::int64_t heads = 0;
  int dim = 0;
  int value_dim = 0;
  int features = 0;
  bool normalize = true;
  bool output_norm = false;
  bool causal = false;

  // The heads of this launch, counted b·H + h.
  std::int64_t first_head = 0;
  std::int64_t head_count = 0;

  // Sums: (head_count, segments) slots in the workspace, or null in the direct form.
  float* sums = nullptr;
  std::int64_t segments = 0;
  std::int64_t segment_length = 0;
  std::int64_t slot = 0;  // floats of one
  int feature_tiles = 0;  // of `accumulate`

  // The carried state, when causal.
  const float* state = nullptr;
  const float* norm = nullptr;
  float* state_out = nullptr;
  float* norm_out = nullptr;
};

constexpr std::int64_t divide_up(std::int64_t count, std::int64_t unit) { return (count + unit - 1) / unit; }

constexpr std::int64_t sum_columns(std::int64_t value_dim) { return divide_up(value_dim, 8) * 8; }

// Tiles of features that a slot has room for, in whole vectors.
inline constexpr std::int64_t kLeastFeatureTile = 128;
constexpr std::int64_t slot_tiles(std::int64_t features) {
  return divide_up(divide_up(features, kLeastFeatureTile), 4) * 4;
}

// A slot is F rows of `sum_columns` floats, then in whole vectors F normalisers, a scale, and twice a number for each
// tile of features. Rows that tensor cores are to read hold float16 numbers instead, multiples of the scale, and behind
// them the row's normaliser; the scale follows from what the last two parts say: the largest sum of each tile of
// features, and the largest number of the carried state.
constexpr std::int64_t slot_floats(std::int64_t dim, std::int64_t value_dim) {
  const std::int64_t features = taylor_features(dim);
  return features * sum_columns(value_dim) + divide_up(features, 4) * 4 + 4 + 2 * slot_tiles(features);
}

// Float32 arithmetic for every element type (`simt`), or tensor cores for float16 and bfloat16.
enum class TaylorUnit : std::uint8_t { kSimt, kTensor };

// Features of a block of `accumulate`.
std::int64_t feature_tile(TaylorUnit unit, std::int64_t dim, std::int64_t value_dim) noexcept;

// True if the unit can run this type, these widths and as many tokens on the device, with sums, by keys, or both.
bool taylor_unit_supports(TaylorUnit unit, DType type, std::int64_t length, std::int64_t dim, std::int64_t value_dim,
                          bool normalize, bool sums, bool keys, const Device& device) noexcept;

// Blocks of `accumulate` that a multiprocessor holds at a time, as far as registers (tables in taylor_simt.cuh and
// taylor_tensor.cuh) and shared memory allow.
inline constexpr std::int64_t kMostSumBlocks = 4;
std::int64_t accumulate_blocks(TaylorUnit unit, std::int64_t dim, std::int64_t value_dim,
                               std::size_t shared_memory) noexcept;

// How keys are split into segments, and heads into groups that one round of launches handles: the slots of a group fit
// into kMostSumBytes if those of one head do.
struct SumsPlan {
  std::int64_t segments = 1;
  std::int64_t segment_length = kQueryTile;
  std::int64_t group = 1;
};

inline constexpr std::int64_t kMostSumBytes = std::int64_t{256} << 20;

// Segments of about `segment_length` tokens each, longer where the slots of one head would not fit.
SumsPlan plan_sums(std::int64_t heads, std::int64_t length, std::int64_t dim, std::int64_t value_dim,
                   std::int64_t segment_length, TaylorUnit unit) noexcept;

// Bytes of the slots of `slots` segments, all heads together, but no more than a plan uses at once.
std::size_t sum_bytes(std::int64_t slots, std::int64_t dim, std::int64_t value_dim) noexcept;

// Runs all groups of heads: accumulate, combine, attend. `call` is complete but for heads and sums.
int launch_with_sums(TaylorCall call, std::int64_t heads, const SumsPlan& plan, DType type, TaylorUnit unit,
                     void* workspace, Stream stream) noexcept;

// Each returns 0 or a cudaError_t.
int launch_accumulate(const TaylorCall& call, DType type, TaylorUnit unit, Stream stream) noexcept;
int launch_combine(const TaylorCall& call, TaylorUnit unit, Stream stream) noexcept;
int launch_attend(const TaylorCall& call, DType type, TaylorUnit unit, Stream stream) noexcept;

}  // namespace hsm::cuda
