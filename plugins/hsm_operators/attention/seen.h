// What a query has seen of its keys.
#pragma once

#include <limits>

namespace hsm {

// Weights are 2^(score - most).
struct AttentionSeen {
  // Below every score at the start; finite, because the difference of two infinities is no number.
  float most = std::numeric_limits<float>::lowest();
  float total = 0;  // of the weights
};

}  // namespace hsm
