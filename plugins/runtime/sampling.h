// Choosing the next token from logits, as exporter/hsm_export/decoding/sampling.py does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hsm_runtime/generator.h"

namespace hsm::runtime {

// Room for one choice among `vocabulary` tokens, so that choosing allocates nothing.
struct SamplingRoom {
  explicit SamplingRoom(std::size_t vocabulary) : ids(vocabulary), weights(vocabulary) {}
  std::vector<std::int64_t> ids;
  std::vector<double> weights;
};

// Returns the id of the next token. `uniform` lies in [0, 1). Throws Error: kInvalidArgument for settings out of range,
// kRunFailed for logits that hold NaN or positive infinity, or nothing but negative infinity.
std::int64_t choose(std::span<const float> logits, const hsm_runtime::Sampling& sampling, double uniform,
                    SamplingRoom& room);

}  // namespace hsm::runtime
