#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

// The likeliest token; NaN is seen wherever it is.
std::int64_t likeliest(std::span<const double> logits) {
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

void check(const hsm_runtime::Sampling& sampling, std::int64_t vocabulary) {
  if (!(std::isfinite(sampling.temperature) && sampling.temperature >= 0)) {
    fail(Code::kInvalidArgument, "the temperature must be 0 or more");
  }
  if (sampling.top_k < 0) fail(Code::kInvalidArgument, "top_k must be 0 or more");
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    fail(Code::kInvalidArgument, "top_p must lie above 0 and be at most 1");
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) fail(Code::kInvalidArgument, "min_p must lie from 0 to 1");
  if (!(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0)) {
    fail(Code::kInvalidArgument, "the repetition penalty must be above 0; 1 changes nothing");
  }
  if (!std::isfinite(sampling.presence_penalty) || !std::isfinite(sampling.frequency_penalty)) {
    fail(Code::kInvalidArgument, "the presence and the frequency penalty must be finite");
  }
  for (const hsm_runtime::TokenBias& item : sampling.logit_bias) {
    if (item.token < 0 || item.token >= vocabulary) {
      fail(Code::kInvalidArgument, "the bias is of token id " + std::to_string(item.token) + ", which is not in 0.." +
                                       std::to_string(vocabulary - 1));
    }
    if (!(item.bias < std::numeric_limits<double>::infinity())) {
      fail(Code::kInvalidArgument, "a bias must be a number, or minus infinity");
    }
  }
}

bool has_penalties(const hsm_runtime::Sampling& sampling) {
  return sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
}

double uniform_of(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t bits = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((bits ^ (bits >> 31)) >> 11) * 0x1.0p-53;
}

void take_logits(std::span<const float> logits, SamplingRoom& room) {
  std::copy(logits.begin(), logits.end(), room.logits.begin());
}

void add_bias(const hsm_runtime::Sampling& sampling, SamplingRoom& room) {
  for (const hsm_runtime::TokenBias& item : sampling.logit_bias) {
    room.logits[static_cast<std::size_t>(item.token)] += item.bias;
  }
}

std::size_t candidates(const hsm_runtime::Sampling& sampling, SamplingRoom& room) {
  const std::int64_t best = likeliest(room.logits);
  if (sampling.temperature == 0) {
    room.ids[0] = best;
    room.weights[0] = 1;
    return 1;
  }
  const auto by_logit = [&](std::int64_t a, std::int64_t b) {
    const double left = room.logits[static_cast<std::size_t>(a)], right = room.logits[static_cast<std::size_t>(b)];
    return left != right ? left > right : a < b;
  };
  std::iota(room.ids.begin(), room.ids.end(), std::int64_t{0});
  std::size_t count = room.ids.size();
  if (sampling.top_k > 0) count = std::min(count, static_cast<std::size_t>(sampling.top_k));
  std::partial_sort(room.ids.begin(), room.ids.begin() + static_cast<std::ptrdiff_t>(count), room.ids.end(), by_logit);

  const double highest = room.logits[static_cast<std::size_t>(best)];
  double total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double logit = room.logits[static_cast<std::size_t>(room.ids[i])];
    total += room.weights[i] = std::exp((logit - highest) / sampling.temperature);
  }
  // The token that crosses top_p belongs to them.
  double before = 0;
  std::size_t kept = 0;
  while (kept < count && before / total < sampling.top_p && room.weights[kept] > 0 &&
         room.weights[kept] >= sampling.min_p) {  // the likeliest has the weight 1
    before += room.weights[kept++];
  }
  return kept;
}

std::int64_t draw(std::size_t count, double uniform, const SamplingRoom& room) {
  const auto end = room.weights.begin() + static_cast<std::ptrdiff_t>(count);
  const double drawn = uniform * std::accumulate(room.weights.begin(), end, 0.0);
  double reached = 0;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    reached += room.weights[i];
    if (drawn < reached) return room.ids[i];
  }
  return room.ids[count - 1];
}

std::int64_t choose(std::span<const float> logits, const hsm_runtime::Sampling& sampling, double uniform,
                    SamplingRoom& room) {
  check(sampling, static_cast<std::int64_t>(logits.size()));
  if (!(uniform >= 0 && uniform < 1)) fail(Code::kInvalidArgument, "the random number must lie in [0, 1)");
  if (has_penalties(sampling)) {
    fail(Code::kInvalidArgument, "penalties depend on the tokens before: choose with a sampler");
  }
  take_logits(logits, room);
  add_bias(sampling, room);
  if (sampling.on_logits) sampling.on_logits(room.logits);
  return draw(candidates(sampling, room), uniform, room);
}

}  // namespace hsm::runtime
