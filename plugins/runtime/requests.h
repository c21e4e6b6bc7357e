// What a scheduler makes of requests: which it takes, and how several samples of one prompt end as one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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

}  // namespace hsm::runtime
