// Which experts a token chooses: the k with the largest logits, equal ones by index, NaN before all numbers (so that it
// is seen in the result). Chosen experts whose gate is exactly 0 are left out: saturated logits switch experts off.
#pragma once

#include <cmath>
#include <cstdint>

#include "hsm_operators/common/cuda/platform.cuh"

namespace hsm::cuda {

// Orders the experts of one token: the better one is larger. Never 0, and no two are equal.
using Rank = std::uint64_t;

__device__ __forceinline__ Rank rank_of(float logit, int expert) {
  const std::uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and 0 are a tie
  std::uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  if (logit != logit) ordered = 0xffffffffU;
  return static_cast<Rank>(ordered) << 32 | (0x7fffffffU - static_cast<std::uint32_t>(expert));
}

__device__ __forceinline__ int expert_of(Rank rank) {
  return static_cast<int>(0x7fffffffU - static_cast<std::uint32_t>(rank));
}

// The rank of the k-th best expert. k passes over the logits, which are few and cached.
__device__ __forceinline__ Rank lowest_chosen(const float* logits, int experts, int k) {
  if (k >= experts) return 0;
  Rank lowest = ~Rank{0};
  for (int i = 0; i < k; ++i) {
    Rank best = 0;
    for (int e = 0; e < experts; ++e) {
      const Rank rank = rank_of(logits[e], e);
      if (rank < lowest) best = max(best, rank);
    }
    lowest = best;
  }
  return lowest;
}

// Sigmoid of an expert's logit, or 0 if it ranks below the lowest chosen one.
__device__ __forceinline__ float gate_of(float logit, int expert, Rank lowest) {
  if (rank_of(logit, expert) < lowest) return 0.0f;
  return 1.0f / (1.0f + expf(-logit));
}

}  // namespace hsm::cuda
