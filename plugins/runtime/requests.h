// What a scheduler makes of requests: which it takes, and how several samples of one prompt end as one.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "hsm_runtime/scheduler.h"

namespace hsm::runtime {

using hsm_runtime::Reply;
using hsm_runtime::Request;
using hsm_runtime::Sample;

// What a request must fit in.
struct RequestLimits {
  std::int64_t vocabulary;
  std::int64_t longest;  // tokens of a row; 0: any number
  std::int64_t rows;
};

// Throws Error(kInvalidArgument) for a request that can never run.
void check_request(const Request& request, const RequestLimits& limits);

// Throws Error(kInvalidArgument) for a request whose tokens do not fit in a row, after those that it has `reached`.
void check_room(const Request& request, std::int64_t reached, std::int64_t longest);

// A request for n samples is n requests.
class Samples {
 public:
  explicit Samples(const Request& request);

  // The request of one sample. What it replies comes back here; the last one ends the whole.
  static Request one(const std::shared_ptr<Samples>& all, const Request& request, std::int64_t index);
  // Whether all samples have ended.
  bool is_over() const { return open_ == 0; }

 private:
  void take(const Reply& reply, std::int64_t index);
  void end();

  std::function<void(const Reply&)> on_end_;
  std::int64_t best_, open_;
  std::vector<Sample> samples_;  // by index
  Reply reply_;
};

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A request on its way.
struct Work {
  Request request;
  Reply reply;
  Clock::time_point submitted = Clock::now();
  std::int64_t row = -1;
  std::shared_ptr<Samples> samples;             // that it is one of; NULL for a request for one
  Work* leader = nullptr;                       // the sample that reads the prompt for this one
  std::optional<hsm_runtime::Sampler> sampler;  // made when it is submitted
  std::size_t read = 0;                         // tokens of the prompt
  std::int64_t next_token = -1;                 // chosen and not yet read
  bool is_last = false;                         // it is read for the sake of the saved row alone
  bool is_cancelled = false;                    // guarded by the scheduler's mutex

  bool reads_prompt() const { return read < request.prompt.size(); }
  // In the timeout's own unit: the largest one has no number of nanoseconds.
  bool is_late() const {
    const auto waited = std::chrono::floor<std::chrono::milliseconds>(Clock::now() - submitted);
    return request.timeout.count() > 0 && waited >= request.timeout;
  }
};
using Works = std::list<std::unique_ptr<Work>>;

}  // namespace hsm::runtime
