// The rule by which a target model takes or refuses what a draft proposes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "hsm_runtime/sampling.h"
#include "runtime/sampling.h"

namespace hsm::runtime {

// The probabilities (V) of the next token by its logits and the settings.
std::vector<double> probabilities(std::span<const float> logits, const hsm_runtime::Sampling& sampling,
                                  SamplingRoom& room);
// One token by its probabilities, which need not add up to 1.
std::int64_t draw(std::span<const double> weights, double uniform);

// What becomes of the proposals: those before the first refused one, and one token more. `proposed[i]` was drawn from
// `by_draft[i]`; `by_target` has one distribution more. `uniform` gives numbers in [0, 1).
std::vector<std::int64_t> judge(std::span<const std::int64_t> proposed, std::span<const std::vector<double>> by_draft,
                                std::span<const std::vector<double>> by_target, const std::function<double()>& uniform);

}  // namespace hsm::runtime
