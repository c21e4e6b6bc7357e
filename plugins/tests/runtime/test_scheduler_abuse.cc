// What programs do to a scheduler that they should not, and what its callbacks may do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "tests/runtime/scheduler_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SchedulerAbuseTest : public SchedulerTest {};

TEST_F(SchedulerAbuseTest, TakesTheExtremesOfPrioritiesAndTimeouts) {
  Scheduler scheduler = this->scheduler(1);
  for (const int priority : {std::numeric_limits<int>::min(), 0, std::numeric_limits<int>::max()}) {
    Request request = request_of({0}, 2);
    request.priority = priority;
    request.timeout = std::chrono::milliseconds::max();
    EXPECT_EQ(reply_to(scheduler, request).ending, Ending::kLength) << priority;
  }
  Request late = request_of({0}, 1);
  late.timeout = std::chrono::milliseconds(-1);
  EXPECT_EQ(scheduler.submit(late).status().code(), Code::kInvalidArgument);
}

TEST_F(SchedulerAbuseTest, CallbacksSubmitCancelAndLookButDoNotWait) {
  Scheduler scheduler = this->scheduler(2);
  std::promise<Reply> ended;
  std::atomic<std::uint64_t> own = 0;
  Status waited;
  Request request = request_of({0}, 8);
  request.on_token = [&](std::int64_t) {
    while (own == 0) std::this_thread::yield();
    waited = scheduler.drain();
    EXPECT_EQ(scheduler.metrics().active, 1u);
    EXPECT_TRUE(scheduler.cancel(own).ok());  // ends before the next step
    EXPECT_TRUE(scheduler.cancel(own + 1000).ok());
    return true;
  };
  request.on_end = [&](const Reply& reply) {
    EXPECT_EQ(reply.ending, Ending::kCancelled);
    EXPECT_THAT(reply.tokens, ElementsAre(0));
    Request next = request_of({3}, 1);
    next.on_end = [&](const Reply& last) { ended.set_value(last); };
    EXPECT_TRUE(scheduler.submit(next).ok());
  };
  own = *scheduler.submit(request);
  EXPECT_THAT(ended.get_future().get().tokens, ElementsAre(3));
  EXPECT_EQ(waited.code(), Code::kInvalidArgument);
  EXPECT_THAT(waited.message(), HasSubstr("wait for its own scheduler"));
  EXPECT_TRUE(scheduler.drain().ok());
}

// A client that asks again whenever it was cancelled.
TEST_F(SchedulerAbuseTest, ClosesWhileCallbacksSubmit) {
  std::atomic<int> refused = 0;
  {
    Scheduler scheduler = this->scheduler(1);
    std::promise<void> started;
    Request request = request_of({0}, 8);
    request.on_end = [&](const Reply&) {
      const auto again = scheduler.submit(request_of({0}, 8));
      if (again.status().code() == Code::kUnavailable) ++refused;
    };
    request.on_token = [&, first = true](std::int64_t) mutable {
      if (first) started.set_value();
      first = false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return true;
    };
    ASSERT_TRUE(scheduler.submit(request).ok());
    started.get_future().wait();
  }
  EXPECT_EQ(refused, 1);
}

TEST_F(SchedulerAbuseTest, IsDestroyedByItsOwnCallback) {
  auto scheduler = std::make_unique<std::optional<Scheduler>>(this->scheduler(1));
  std::promise<Reply> waiting;
  std::promise<void> submitted;
  Request first = request_of({0}, 8), second = request_of({1}, 1);
  first.on_token = [&](std::int64_t) {
    submitted.get_future().wait();
    scheduler->reset();
    return true;
  };
  second.on_end = [&](const Reply& reply) { waiting.set_value(reply); };
  ASSERT_TRUE((*scheduler)->submit(first).ok());
  ASSERT_TRUE((*scheduler)->submit(second).ok());
  submitted.set_value();
  EXPECT_EQ(waiting.get_future().get().ending, Ending::kCancelled);
}

TEST_F(SchedulerAbuseTest, ClosesWhatItReplaces) {
  std::atomic<int> cancelled = 0;
  Scheduler scheduler = this->scheduler(1), other = this->scheduler(1);
  Request request = request_of({0}, 8);
  request.on_token = [](std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return true;
  };
  request.on_end = [&](const Reply& reply) { cancelled += reply.ending == Ending::kCancelled ? 1 : 0; };
  ASSERT_TRUE(scheduler.submit(request).ok());
  scheduler = std::move(other);
  EXPECT_EQ(cancelled, 1);
  EXPECT_THAT(reply_to(scheduler, request_of({2}, 1)).tokens, ElementsAre(2));
}

// A conversation that outgrows its row ends alone, not the step that it shares with others.
TEST_F(SchedulerAbuseTest, ALongConversationHurtsNobodyElse) {
  Scheduler scheduler = this->scheduler(2, 4);
  const std::string path = (folder_.path() / "parked.safetensors").string();
  Request request = request_of({1, 1}, 3);
  request.park = path;
  ASSERT_EQ(reply_to(scheduler, request).ending, Ending::kLength);  // 5 of 9 tokens
  std::promise<Reply> ended;
  Request other = request_of({2}, 8);
  other.on_token = [](std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return true;
  };
  other.on_end = [&](const Reply& reply) { ended.set_value(reply); };
  ASSERT_TRUE(scheduler.submit(other).ok());
  Request longer = request_of({1}, 6);
  longer.resume = path;
  const Reply reply = reply_to(scheduler, longer);
  EXPECT_EQ(reply.ending, Ending::kFailed);
  EXPECT_EQ(reply.status.code(), Code::kInvalidArgument);
  EXPECT_THAT(reply.status.message(), HasSubstr("do not fit in a row of 9 that has read 5"));
  EXPECT_EQ(ended.get_future().get().ending, Ending::kLength);
  longer.max_tokens = 3;
  EXPECT_EQ(reply_to(scheduler, longer).ending, Ending::kLength);
}

}  // namespace
}  // namespace hsm::testing
