#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "hsm_runtime/sampling.h"
#include "runtime/error.h"
#include "runtime/sampling.h"

namespace hsm_runtime {

using hsm::runtime::fail;

struct Sampler::Impl {
  Impl(const Sampling& chosen, std::uint64_t stream, std::int64_t tokens)
      : sampling(chosen), seed(stream), vocabulary(tokens), room(static_cast<std::size_t>(tokens)) {}

  void read(std::span<const std::int64_t> tokens) {
    for (const std::int64_t token : tokens) {
      if (token < 0 || token >= vocabulary) {
        fail(Code::kInvalidArgument,
             "token id " + std::to_string(token) + " is not in 0.." + std::to_string(vocabulary - 1));
      }
    }
    if (sampling.repetition_penalty != 1) seen.insert(tokens.begin(), tokens.end());
  }

  void add_penalties() {
    if (sampling.repetition_penalty != 1) {
      for (const std::int64_t token : seen) {
        double& logit = room.logits[static_cast<std::size_t>(token)];
        logit = logit > 0 ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
      }
    }
    if (sampling.presence_penalty == 0 && sampling.frequency_penalty == 0) return;
    for (const auto& [token, count] : counts) {
      room.logits[static_cast<std::size_t>(token)] -= sampling.presence_penalty + count * sampling.frequency_penalty;
    }
  }

  Choice choose(std::span<const float> logits, std::int64_t top) {
    if (logits.size() != room.logits.size()) {
      fail(Code::kInvalidArgument,
           "there must be " + std::to_string(vocabulary) + " logits, not " + std::to_string(logits.size()));
    }
    if (top < -1) fail(Code::kInvalidArgument, "the number of likeliest tokens must be 0 or more, or -1");
    hsm::runtime::take_logits(logits, room);
    add_penalties();
    hsm::runtime::add_bias(sampling, room);
    if (sampling.on_logits) sampling.on_logits(room.logits);
    const std::size_t count = hsm::runtime::candidates(sampling, room);
    Choice choice;
    choice.token =
        hsm::runtime::draw(count, sampling.temperature == 0 ? 0 : hsm::runtime::uniform_of(seed, index), room);
    ++index;
    if (top >= 0) describe(logits, top, choice);
    if (sampling.repetition_penalty != 1) seen.insert(choice.token);
    if (sampling.presence_penalty != 0 || sampling.frequency_penalty != 0) ++counts[choice.token];
    return choice;
  }

  // The probabilities by the model's own logits.
  void describe(std::span<const float> logits, std::int64_t top, Choice& choice) {
    const double highest = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float logit : logits) total += std::exp(logit - highest);
    const auto of = [&](std::int64_t token) {
      return logits[static_cast<std::size_t>(token)] - highest - std::log(total);
    };
    choice.log_probability = of(choice.token);
    const auto count = static_cast<std::ptrdiff_t>(std::min(top, vocabulary));
    if (count == 0) return;
    std::iota(room.ids.begin(), room.ids.end(), std::int64_t{0});
    std::partial_sort(room.ids.begin(), room.ids.begin() + count, room.ids.end(), [&](std::int64_t a, std::int64_t b) {
      const float left = logits[static_cast<std::size_t>(a)], right = logits[static_cast<std::size_t>(b)];
      return left != right ? left > right : a < b;
    });
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const std::int64_t token = room.ids[static_cast<std::size_t>(i)];
      choice.top.push_back({token, of(token)});
    }
  }

  const Sampling sampling;
  const std::uint64_t seed;
  const std::int64_t vocabulary;
  std::uint64_t index = 0;                                // of the next random number
  std::unordered_set<std::int64_t> seen;                  // in the prompt or the reply
  std::unordered_map<std::int64_t, std::int64_t> counts;  // in the reply
  hsm::runtime::SamplingRoom room;
};

Sampler::Sampler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
Sampler::~Sampler() = default;

Result<Sampler> Sampler::create(const Sampling& sampling, std::uint64_t seed, std::int64_t vocabulary) {
  return hsm::runtime::guarded<Sampler>([&] {
    if (vocabulary < 1) fail(Code::kInvalidArgument, "a sampler chooses among at least one token");
    hsm::runtime::check(sampling, vocabulary);
    return Sampler(std::make_unique<Impl>(sampling, seed, vocabulary));
  });
}

Status Sampler::read(std::span<const std::int64_t> tokens) {
  return hsm::runtime::guarded_status([&] { impl_->read(tokens); });
}
Result<Choice> Sampler::choose(std::span<const float> logits, std::int64_t top) {
  return hsm::runtime::guarded<Choice>([&] { return impl_->choose(logits, top); });
}

}  // namespace hsm_runtime
