// Which tokens go to which expert, and with which gate. Plain C++: routing is a small part of the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hsm::cpu {

// The routing logits (tokens,heads,experts) of which each token and head takes the `active` largest.
struct Router {
  const float* logits;
  std::int64_t heads;
  std::int64_t experts;
  std::int64_t active;
};

struct Choice {
  std::int32_t expert;
  float gate;
};

// Writes the choices (count,heads,active) of `count` tokens from `first` on: top-k by logit, ties to the lower index
// (NaN counts as the largest, so that it is seen in the result), then sigmoid.
void choose(const Router& router, std::int64_t first, std::int64_t count, Choice* choices);

// The tokens that chose one expert, in ascending order.
struct Group {
  std::span<const std::int32_t> tokens;  // counted from the first of the choices
  std::span<const float> gates;          // sigmoid of the chosen logits, never 0
  std::size_t first = 0;                 // the place of the first of them among all choices by expert

  // Those of the tokens that are at least `begin` and less than `end`.
  Group between(std::int64_t begin, std::int64_t end) const;
};

// Choices by head and expert. Gates that are exactly 0 are left out: saturated logits switch experts off.
class Routes {
 public:
  Routes() = default;
  // Of `choices` (tokens,heads,active).
  Routes(const Router& router, std::span<const Choice> choices);
  // Chooses for `count` tokens from `first` on.
  Routes(const Router& router, std::int64_t first, std::int64_t count);

  Group group(std::int64_t head, std::int64_t expert) const;
  // How many choices there are.
  std::size_t size() const { return tokens_.size(); }

 private:
  std::int64_t experts_ = 0;
  std::vector<std::int32_t> ends_;    // (H·E) where each expert's tokens end
  std::vector<std::int32_t> tokens_;  // sorted by head, expert and token
  std::vector<float> gates_;
};

}  // namespace hsm::cpu
