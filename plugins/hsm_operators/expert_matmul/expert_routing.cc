#include "hsm_operators/expert_matmul/expert_routing.h"

#include <algorithm>
#include <cmath>

namespace hsm::cpu {
namespace {

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

std::vector<Choice> chosen(const Router& router, std::int64_t first, std::int64_t count) {
  std::vector<Choice> choices(static_cast<std::size_t>(count * router.heads * router.active));
  choose(router, first, count, choices.data());
  return choices;
}

}  // namespace

void choose(const Router& router, std::int64_t first, std::int64_t count, Choice* choices) {
  const float* logits = router.logits + first * router.heads * router.experts;
  for (std::int64_t row = 0; row < count * router.heads; ++row) {
    select(logits, router.experts, router.active, choices);
    for (std::int64_t i = 0; i < router.active; ++i) choices[i].gate = sigmoid(logits[choices[i].expert]);
    logits += router.experts;
    choices += router.active;
  }
}

Group Group::between(std::int64_t begin, std::int64_t end) const {
  const auto place = [&](std::int64_t token) {
    const auto found = std::ranges::lower_bound(tokens, token, {}, [](std::int32_t t) { return std::int64_t{t}; });
    return static_cast<std::size_t>(found - tokens.begin());
  };
  const std::size_t from = place(begin);
  const std::size_t count = place(end) - from;
  return {tokens.subspan(from, count), gates.subspan(from, count), first + from};
}

Routes::Routes(const Router& router, std::int64_t first, std::int64_t count)
    : Routes(router, chosen(router, first, count)) {}

Routes::Routes(const Router& router, std::span<const Choice> choices)
    : experts_(router.experts), ends_(static_cast<std::size_t>(router.heads * router.experts)) {
  const auto visit = [&](auto&& body) {
    const auto active = static_cast<std::size_t>(router.active);
    const auto heads = static_cast<std::size_t>(router.heads);
    for (std::size_t row = 0; row < choices.size() / active; ++row) {
      const auto head = static_cast<std::int64_t>(row % heads);
      for (const Choice& choice : choices.subspan(row * active, active)) {
        if (choice.gate == 0.0f) continue;
        body(static_cast<std::int32_t>(row / heads), static_cast<std::size_t>(head * experts_ + choice.expert),
             choice.gate);
      }
    }
  };
  visit([&](std::int32_t, std::size_t expert, float) { ++ends_[expert]; });
  std::int32_t total = 0;
  // Starts for now: placing a token moves its expert's start by one, and leaves the end.
  for (std::int32_t& start : ends_) start = (total += start) - start;
  tokens_.resize(static_cast<std::size_t>(total));
  gates_.resize(static_cast<std::size_t>(total));
  visit([&](std::int32_t token, std::size_t expert, float gate) {
    const auto at = static_cast<std::size_t>(ends_[expert]++);
    tokens_[at] = token;
    gates_[at] = gate;
  });
}

Group Routes::group(std::int64_t head, std::int64_t expert) const {
  const auto index = static_cast<std::size_t>(head * experts_ + expert);
  const auto begin = static_cast<std::size_t>(index == 0 ? 0 : ends_[index - 1]);
  const auto size = static_cast<std::size_t>(ends_[index]) - begin;
  return {std::span(tokens_).subspan(begin, size), std::span(gates_).subspan(begin, size), begin};
}

}  // namespace hsm::cpu
