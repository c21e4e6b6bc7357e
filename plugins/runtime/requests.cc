#include "runtime/requests.h"

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

void check_samples(const Request& request, std::int64_t rows) {
  if (request.samples < 1 || request.samples > rows) {
    fail(Code::kInvalidArgument, "a request may ask for 1 to " + std::to_string(rows) +
                                     " samples, as many as there are rows, not for " + std::to_string(request.samples));
  }
  if (request.best < 0 || request.best > request.samples) {
    fail(Code::kInvalidArgument, "the best samples must be from 0 to " + std::to_string(request.samples));
  }
  if (request.samples > 1 && !request.park.empty()) {
    fail(Code::kInvalidArgument, "of several samples none can be parked: ask for one");
  }
}

}  // namespace

void check_request(const Request& request, const RequestLimits& limits) {
  if (request.prompt.empty()) fail(Code::kInvalidArgument, "a request needs a prompt of at least one token id");
  if (request.max_tokens < 1) fail(Code::kInvalidArgument, "a request must ask for at least one token");
  if (request.log_probabilities < -1) fail(Code::kInvalidArgument, "log_probabilities must be -1 or more");
  if (request.timeout.count() < 0) fail(Code::kInvalidArgument, "a request's timeout must not be negative");
  for (const std::int64_t token : request.prompt) {
    if (token >= 0 && token < limits.vocabulary) continue;
    fail(Code::kInvalidArgument,
         "token id " + std::to_string(token) + " is not in 0.." + std::to_string(limits.vocabulary - 1));
  }
  check_samples(request, limits.rows);
  check_room(request, 0, limits.longest);
}

void check_room(const Request& request, std::int64_t reached, std::int64_t longest) {
  const auto length = static_cast<std::int64_t>(request.prompt.size());
  if (longest == 0 || (length <= longest - reached && request.max_tokens <= longest - reached - length)) return;
  fail(Code::kInvalidArgument, "a prompt of " + std::to_string(length) + " tokens and " +
                                   std::to_string(request.max_tokens) + " new ones do not fit in a row of " +
                                   std::to_string(longest) +
                                   (reached > 0 ? " that has read " + std::to_string(reached) : ""));
}

Samples::Samples(const Request& request)
    : on_end_(request.on_end),
      best_(request.best),
      open_(request.samples),
      samples_(static_cast<std::size_t>(request.samples)) {}

Request Samples::one(const std::shared_ptr<Samples>& all, const Request& request, std::int64_t index) {
  Request sample = request;
  sample.samples = 1;
  sample.seed += static_cast<std::uint64_t>(index);
  if (request.on_sample_token) {
    sample.on_token = [tell = request.on_sample_token, index](std::int64_t token) { return tell(index, token); };
  }
  sample.on_end = [all, index](const Reply& reply) { all->take(reply, index); };
  return sample;
}

void Samples::take(const Reply& reply, std::int64_t index) {
  Sample& sample = samples_[static_cast<std::size_t>(index)];
  try {
    sample = {index, reply.ending, reply.status, reply.tokens, reply.choices, reply.log_probability};
  } catch (...) {
    sample.index = index, sample.ending = hsm_runtime::Ending::kFailed, sample.status = current_status();
  }
  if (reply_.seconds_to_first_token == 0 || index == 0) reply_.seconds_to_first_token = reply.seconds_to_first_token;
  reply_.id = reply.id;
  reply_.seconds_to_row = std::max(reply_.seconds_to_row, reply.seconds_to_row);
  reply_.seconds = std::max(reply_.seconds, reply.seconds);
  if (--open_ == 0) end();
}

void Samples::end() {
  if (best_ > 0) {
    // Those that failed or were cancelled come last, however likely their beginnings were.
    const auto is_whole = [](const Sample& sample) {
      return sample.ending == hsm_runtime::Ending::kLength || sample.ending == hsm_runtime::Ending::kStop;
    };
    std::stable_sort(samples_.begin(), samples_.end(), [&](const Sample& a, const Sample& b) {
      return is_whole(a) != is_whole(b) ? is_whole(a) : a.log_probability > b.log_probability;
    });
    samples_.resize(std::min(samples_.size(), static_cast<std::size_t>(best_)));
  }
  const Sample& first = samples_.front();
  reply_.ending = first.ending;
  reply_.status = first.status;
  reply_.tokens = first.tokens;
  reply_.choices = first.choices;
  reply_.log_probability = first.log_probability;
  reply_.samples = std::move(samples_);
  if (on_end_) on_end_(reply_);
}

}  // namespace hsm::runtime
