// Schedulers on the model that counts tokens, for their tests.
#pragma once

#include <gtest/gtest.h>

#include <future>
#include <utility>
#include <vector>

#include "hsm_runtime/scheduler.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {

using Tokens = std::vector<std::int64_t>;

class SchedulerTest : public OnnxRuntimeTest {
 protected:
  hsm_runtime::Session session() {
    const hsm_runtime::Result<hsm_runtime::Session> session = hsm_runtime::Session::open(
        *hsm_runtime::Bundle::open(write_counting_bundle(folder_)), hsm_runtime::Part::kDecode, options_);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *session;
  }

  hsm_runtime::Scheduler scheduler(std::int64_t rows, std::int64_t chunk = 2, std::size_t most_waiting = 1000) {
    hsm_runtime::SchedulerOptions options;
    options.generator.batch = rows;
    options.chunk = chunk;
    options.most_waiting = most_waiting;
    hsm_runtime::Result<hsm_runtime::Scheduler> made = hsm_runtime::Scheduler::create(session(), options);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return *std::move(made);
  }
};

// Submits and waits.
inline hsm_runtime::Reply reply_to(hsm_runtime::Scheduler& scheduler, hsm_runtime::Request request) {
  std::promise<hsm_runtime::Reply> ended;
  request.on_end = [&](const hsm_runtime::Reply& reply) { ended.set_value(reply); };
  const auto id = scheduler.submit(std::move(request));
  EXPECT_TRUE(id.ok()) << id.status().message();
  return ended.get_future().get();
}

inline hsm_runtime::Request request_of(Tokens prompt, std::int64_t max_tokens) {
  hsm_runtime::Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

}  // namespace hsm::testing
