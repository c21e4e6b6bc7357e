// Which tokens go to which expert, and with which gate. Plain C++: routing is a small part of the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hsm_operators/expert_matmul/args.gen.h"

namespace hsm::cpu {

// The tokens of a block that chose one expert, in ascending order.
struct Group {
  std::span<const std::int32_t> tokens;  // counted from the start of the block
  std::span<const float> gates;          // sigmoid of the chosen logits, never 0
};

// The routing of `count` consecutive tokens: top-k by logit, ties to the lower index (NaN counts as the largest, so
// that it is seen in the result), then sigmoid. Gates that are exactly 0 are left out: saturated logits switch experts
// off.
class Routes {
 public:
  Routes() = default;
  Routes(const ExpertMatMulArgs& args, std::int64_t first, std::int64_t count);

  Group group(std::int64_t head, std::int64_t expert) const;

 private:
  std::int64_t experts_ = 0;
  std::vector<std::int32_t> ends_;    // (H·E) where each expert's tokens end
  std::vector<std::int32_t> tokens_;  // sorted by head, expert and token
  std::vector<float> gates_;
};

}  // namespace hsm::cpu
