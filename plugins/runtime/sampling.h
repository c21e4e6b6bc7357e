// Choosing the next token from logits, as exporter/hsm_export/decoding/sampling.py does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hsm_runtime/sampling.h"

namespace hsm::runtime {

// Room for one choice among `vocabulary` tokens, so that choosing allocates nothing.
struct SamplingRoom {
  explicit SamplingRoom(std::size_t vocabulary) : logits(vocabulary), ids(vocabulary), weights(vocabulary) {}
  std::vector<double> logits;
  std::vector<std::int64_t> ids;
  std::vector<double> weights;
};

// Throws Error(kInvalidArgument) for settings out of range, among `vocabulary` tokens.
void check(const hsm_runtime::Sampling& sampling, std::int64_t vocabulary);
// Whether a choice depends on what came before.
bool has_penalties(const hsm_runtime::Sampling& sampling);

// Number `index` of a stream of random numbers in [0, 1) (SplitMix64).
double uniform_of(std::uint64_t seed, std::uint64_t index);

// Puts the logits into the room, and adds the bias.
void take_logits(std::span<const float> logits, SamplingRoom& room);
void add_bias(const hsm_runtime::Sampling& sampling, SamplingRoom& room);

// The tokens that may be chosen: returns how many of room.ids, likeliest first, with room.weights in the ratio of their
// probabilities; one for a temperature of 0. Throws Error(kRunFailed) for logits that hold NaN or positive infinity, or
// nothing but negative infinity.
std::size_t candidates(const hsm_runtime::Sampling& sampling, SamplingRoom& room);
// One of `count` candidates by a number in [0, 1).
std::int64_t draw(std::size_t count, double uniform, const SamplingRoom& room);

// All of it for settings that do not depend on what came before. Throws Error(kInvalidArgument) for others, and for a
// number that is not in [0, 1).
std::int64_t choose(std::span<const float> logits, const hsm_runtime::Sampling& sampling, double uniform,
                    SamplingRoom& room);

}  // namespace hsm::runtime
