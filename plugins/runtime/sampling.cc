#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

void check(const hsm_runtime::Sampling& sampling, double uniform) {
  if (!(std::isfinite(sampling.temperature) && sampling.temperature >= 0)) {
    fail(Code::kInvalidArgument, "the temperature must be 0 or more");
  }
  if (sampling.top_k < 0) fail(Code::kInvalidArgument, "top_k must be 0 or more");
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    fail(Code::kInvalidArgument, "top_p must lie above 0 and be at most 1");
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) fail(Code::kInvalidArgument, "min_p must lie from 0 to 1");
  if (!(uniform >= 0 && uniform < 1)) fail(Code::kInvalidArgument, "the random number must lie in [0, 1)");
}

// The likeliest token; NaN is seen wherever it is.
std::int64_t likeliest(std::span<const float> logits) {
  std::size_t best = 0;
  bool has_nan = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    has_nan = has_nan || std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  if (has_nan || !std::isfinite(logits[best])) fail(Code::kRunFailed, "the model's logits are not finite");
  return static_cast<std::int64_t>(best);
}

}  // namespace

std::int64_t choose(std::span<const float> logits, const hsm_runtime::Sampling& sampling, double uniform,
                    SamplingRoom& room) {
  check(sampling, uniform);
  const std::int64_t best = likeliest(logits);
  if (sampling.temperature == 0) return best;

  const auto by_logit = [&](std::int64_t a, std::int64_t b) {
    const float left = logits[static_cast<std::size_t>(a)], right = logits[static_cast<std::size_t>(b)];
    return left != right ? left > right : a < b;
  };
  std::iota(room.ids.begin(), room.ids.end(), std::int64_t{0});
  std::size_t count = room.ids.size();
  if (sampling.top_k > 0) count = std::min(count, static_cast<std::size_t>(sampling.top_k));
  std::partial_sort(room.ids.begin(), room.ids.begin() + static_cast<std::ptrdiff_t>(count), room.ids.end(), by_logit);

  const double highest = logits[static_cast<std::size_t>(best)];
  double total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double logit = logits[static_cast<std::size_t>(room.ids[i])];
    total += room.weights[i] = std::exp((logit - highest) / sampling.temperature);
  }
  // The token that crosses top_p belongs to them.
  double kept_total = 0;
  std::size_t kept = 0;
  while (kept < count && kept_total / total < sampling.top_p && room.weights[kept] > 0 &&
         room.weights[kept] >= sampling.min_p) {  // the likeliest has the weight 1
    kept_total += room.weights[kept++];
  }
  double drawn = uniform * kept_total;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    if (drawn < room.weights[i]) return room.ids[i];
    drawn -= room.weights[i];
  }
  return room.ids[kept - 1];
}

}  // namespace hsm::runtime
