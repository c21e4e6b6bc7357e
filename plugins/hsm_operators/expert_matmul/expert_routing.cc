#include "hsm_operators/expert_matmul/expert_routing.h"

#include <algorithm>
#include <cmath>

namespace hsm::cpu {
namespace {

struct Choice {
  std::int32_t expert;
  float gate;
};

bool is_larger(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

// Beyond these logits 1 / (1 + exp(-logit)) is 0 or 1 in float32. Switched experts are common, and exp is slow there.
constexpr float kZero = -89.0f;
constexpr float kOne = 18.0f;

float sigmoid(float logit) {
  if (logit < kZero) return 0.0f;
  if (logit > kOne) return 1.0f;
  return 1.0f / (1.0f + std::exp(-logit));
}

// Writes the indices of the `k` largest of `experts` logits, larger first, equal ones by index.
void select(const float* logits, std::int64_t experts, std::int64_t k, Choice* chosen) {
  std::int64_t count = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    std::int64_t place = count;
    while (place > 0 && is_larger(logits[e], logits[chosen[place - 1].expert])) --place;
    if (place == k) continue;
    count = std::min(count + 1, k);
    for (std::int64_t i = count - 1; i > place; --i) chosen[i] = chosen[i - 1];
    chosen[place].expert = static_cast<std::int32_t>(e);
  }
}

}  // namespace

Routes::Routes(const ExpertMatMulArgs& args, std::int64_t first, std::int64_t count)
    : experts_(args.experts), ends_(static_cast<std::size_t>(args.heads * args.experts)) {
  const std::int64_t k = args.active;
  std::vector<Choice> choices(static_cast<std::size_t>(count * args.heads * k));
  const auto visit = [&](auto&& body) {
    Choice* choice = choices.data();
    for (std::int64_t t = 0; t < count; ++t) {
      for (std::int64_t h = 0; h < args.heads; ++h, choice += k) body(t, h, choice);
    }
  };
  visit([&](std::int64_t t, std::int64_t h, Choice* chosen) {
    const float* logits = args.logits + ((first + t) * args.heads + h) * experts_;
    select(logits, experts_, k, chosen);
    for (std::int64_t i = 0; i < k; ++i) {
      chosen[i].gate = sigmoid(logits[chosen[i].expert]);
      if (chosen[i].gate != 0.0f) ++ends_[static_cast<std::size_t>(h * experts_ + chosen[i].expert)];
    }
  });
  std::int32_t total = 0;
  // Starts for now: placing a token moves its expert's start by one, and leaves the end.
  for (std::int32_t& start : ends_) start = (total += start) - start;
  tokens_.resize(static_cast<std::size_t>(total));
  gates_.resize(static_cast<std::size_t>(total));
  visit([&](std::int64_t t, std::int64_t h, const Choice* chosen) {
    for (std::int64_t i = 0; i < k; ++i) {
      if (chosen[i].gate == 0.0f) continue;
      const auto at = static_cast<std::size_t>(ends_[static_cast<std::size_t>(h * experts_ + chosen[i].expert)]++);
      tokens_[at] = static_cast<std::int32_t>(t);
      gates_[at] = chosen[i].gate;
    }
  });
}

Group Routes::group(std::int64_t head, std::int64_t expert) const {
  const auto index = static_cast<std::size_t>(head * experts_ + expert);
  const auto begin = static_cast<std::size_t>(index == 0 ? 0 : ends_[index - 1]);
  const auto size = static_cast<std::size_t>(ends_[index]) - begin;
  return {std::span(tokens_).subspan(begin, size), std::span(gates_).subspan(begin, size)};
}

}  // namespace hsm::cpu
