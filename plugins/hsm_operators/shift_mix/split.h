// How a batch of ShiftMix or TokenShift is split into launches on a GPU. No CUDA header in here.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/shift_mix/args.gen.h"

namespace hsm::cuda {

// Threads of a launch, which are numbered in 32 bits. A thread has at least one element.
inline constexpr std::int64_t kMostShiftMixThreads = std::int64_t{1} << 31;

// As shift_mix_launch of a supported call, with so many rows of the batch in each launch that it has at most
// `most_threads` threads, or one row.
int shift_mix_launch_split(const ShiftMixArgs& args, int tactic, std::int64_t most_threads, Stream stream) noexcept;

}  // namespace hsm::cuda
