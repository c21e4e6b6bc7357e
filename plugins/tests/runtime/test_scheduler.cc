// Many requests on few rows: each reply is that of the request alone.
#include "hsm_runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "hsm_runtime.h"
#include "runtime/c_api.h"
#include "tests/runtime/allocations.h"
#include "tests/runtime/scheduler_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(SchedulerTest, SaysHowLikelyEachTokenWas) {
  Scheduler scheduler = this->scheduler(1);
  Request request = request_of({0, 1, 1}, 2);
  request.log_probabilities = 1;
  const Reply reply = reply_to(scheduler, request);
  ASSERT_EQ(reply.choices.size(), 2u);
  EXPECT_EQ(reply.choices[0].token, 1);
  EXPECT_EQ(reply.choices[0].top.size(), 1u);
  EXPECT_LT(reply.choices[0].log_probability, 0);
  request.sampling.logit_bias = {{0, -100}, {1, -100}};
  EXPECT_THAT(reply_to(scheduler, request).tokens, ElementsAre(2, 2));
  request.sampling.min_p = 2;
  EXPECT_EQ(scheduler.submit(request).status().code(), Code::kInvalidArgument);
  request = request_of({0}, 1);
  request.log_probabilities = -2;
  EXPECT_EQ(scheduler.submit(request).status().code(), Code::kInvalidArgument);
}

// Want of memory ends the request that it befalls, and no other.
TEST_F(SchedulerTest, OutOfMemoryEndsOneRequest) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer has its own operator new";
  Scheduler scheduler = this->scheduler(2);
  Request starved = request_of({0, 1}, 3), other = request_of({2}, 5);
  starved.sampling.on_logits = [](std::span<double>) { fail_next_allocation(); };
  starved.log_probabilities = 2;
  std::promise<Reply> ended;
  other.on_end = [&](const Reply& reply) { ended.set_value(reply); };
  ASSERT_TRUE(scheduler.submit(other).ok());
  const Reply reply = reply_to(scheduler, starved);
  EXPECT_EQ(reply.ending, Ending::kFailed);
  EXPECT_EQ(reply.status.code(), Code::kOutOfMemory);
  EXPECT_EQ(ended.get_future().get().tokens.size(), 5u);
  starved.sampling.on_logits = nullptr;
  EXPECT_EQ(reply_to(scheduler, starved).tokens.size(), 3u);
}

TEST_F(SchedulerTest, RepliesAreThoseOfTheRequestAlone) {
  Scheduler together = scheduler(3), alone = scheduler(1);
  constexpr int kRequests = 60;
  std::vector<std::promise<Reply>> ends(kRequests);
  std::vector<Request> requests;
  for (int i = 0; i < kRequests; ++i) {
    Request request = request_of(Tokens(static_cast<std::size_t>(1 + i % 5), i % 4), 1 + i % 4);
    request.prompt[0] = (i / 4) % 4;
    request.seed = static_cast<std::uint64_t>(i);
    request.sampling.temperature = i % 3;
    requests.push_back(request);
    request.on_end = [&ends, i](const Reply& reply) { ends[static_cast<std::size_t>(i)].set_value(reply); };
    ASSERT_TRUE(together.submit(request).ok());
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Reply reply = ends[i].get_future().get(), right = reply_to(alone, requests[i]);
    EXPECT_EQ(reply.tokens, right.tokens) << i;
    EXPECT_EQ(reply.ending, Ending::kLength);
    EXPECT_EQ(static_cast<std::int64_t>(reply.tokens.size()), requests[i].max_tokens);
    EXPECT_GE(reply.seconds, reply.seconds_to_first_token);
    EXPECT_GE(reply.seconds_to_first_token, reply.seconds_to_row);
  }
  EXPECT_TRUE(together.drain().ok());
  const SchedulerMetrics metrics = together.metrics();
  EXPECT_EQ(metrics.ended, 60u);
  EXPECT_EQ(metrics.first_tokens, 60u);
  EXPECT_EQ(metrics.rows, 3u);
  EXPECT_EQ(metrics.active + metrics.waiting, 0u);
}

TEST_F(SchedulerTest, StreamsStopsAndCancels) {
  Scheduler scheduler = this->scheduler(2);
  Tokens streamed;
  Request request = request_of({2, 2}, 3);
  request.on_token = [&](std::int64_t token) {
    streamed.push_back(token);
    return true;
  };
  EXPECT_THAT(reply_to(scheduler, request).tokens, ElementsAre(2, 2, 2));
  EXPECT_THAT(streamed, ElementsAre(2, 2, 2));

  request.stop_tokens = {1, 2};
  const Reply stopped = reply_to(scheduler, request);
  EXPECT_EQ(stopped.ending, Ending::kStop);
  EXPECT_TRUE(stopped.tokens.empty());

  request.stop_tokens = {};
  request.on_token = [](std::int64_t) { return false; };
  const Reply cancelled = reply_to(scheduler, request);
  EXPECT_EQ(cancelled.ending, Ending::kCancelled);
  EXPECT_THAT(cancelled.tokens, ElementsAre(2));

  request.on_token = [](std::int64_t) -> bool { throw 1; };
  EXPECT_EQ(reply_to(scheduler, request).ending, Ending::kCancelled);
  EXPECT_TRUE(scheduler.cancel(12345).ok());
}

TEST_F(SchedulerTest, OrdersByPriorityAndRefusesWhenTooManyWait) {
  Scheduler scheduler = this->scheduler(1, 2, 3);
  std::promise<void> go;
  std::shared_future<void> gate = go.get_future().share();
  std::mutex mutex;
  std::vector<int> order;
  const auto request = [&](int number, int priority) {
    Request made = request_of({0}, 1);
    made.priority = priority;
    made.on_end = [&, number](const Reply&) {
      const std::lock_guard lock(mutex);
      order.push_back(number);
    };
    return made;
  };
  Request first = request(0, 0);
  std::promise<void> started;
  first.on_token = [&](std::int64_t) {
    started.set_value();
    gate.wait();
    return true;
  };
  ASSERT_TRUE(scheduler.submit(first).ok());
  started.get_future().wait();
  for (const auto& [number, priority] : {std::pair(1, 0), {2, 5}, {3, 5}}) {
    ASSERT_TRUE(scheduler.submit(request(number, priority)).ok());
  }
  const Status refused = scheduler.submit(request(4, 9)).status();
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("3 requests wait already"));
  EXPECT_EQ(scheduler.metrics().refused, 1u);
  go.set_value();
  EXPECT_TRUE(scheduler.drain().ok());
  EXPECT_THAT(order, ElementsAre(0, 2, 3, 1));
}

TEST_F(SchedulerTest, EndsWhatIsLate) {
  Scheduler scheduler = this->scheduler(1);
  Request slow = request_of({0}, 8);
  slow.on_token = [](std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return true;
  };
  slow.timeout = std::chrono::milliseconds(30);
  const Reply late = reply_to(scheduler, slow);
  EXPECT_EQ(late.ending, Ending::kTimeout);
  EXPECT_LT(late.tokens.size(), 8u);
}

TEST_F(SchedulerTest, ParksAndResumesAConversation) {
  Scheduler scheduler = this->scheduler(2), alone = this->scheduler(1);
  const std::string path = (folder_.path() / "parked.safetensors").string();
  Request first = request_of({1, 1}, 2);
  first.park = path;
  EXPECT_THAT(reply_to(scheduler, first).tokens, ElementsAre(1, 1));
  EXPECT_THAT(reply_to(scheduler, request_of({3, 3, 3}, 2)).tokens, ElementsAre(3, 3));
  Request second = request_of({2}, 2);
  second.resume = path;
  EXPECT_EQ(reply_to(scheduler, second).tokens, reply_to(alone, request_of({1, 1, 1, 1, 2}, 2)).tokens);
  second.resume = path + ".gone";
  const Reply failed = reply_to(scheduler, second);
  EXPECT_EQ(failed.ending, Ending::kFailed);
  EXPECT_THAT(failed.status.message(), HasSubstr("is no plain file"));
  EXPECT_THAT(reply_to(scheduler, request_of({0}, 1)).tokens, ElementsAre(0));  // it goes on
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  Scheduler scheduler = this->scheduler(1);
  const auto expect_refused = [&](Request request, const std::string& words) {
    const Status status = scheduler.submit(std::move(request)).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << words;
    EXPECT_THAT(status.message(), HasSubstr(words));
  };
  expect_refused(request_of({}, 1), "at least one token id");
  expect_refused(request_of({0}, 0), "at least one token");
  expect_refused(request_of({4}, 1), "token id 4 is not in 0..3");
  expect_refused(request_of(Tokens(5, 0), 5), "do not fit in a row of 9");
  expect_refused(request_of({0}, std::numeric_limits<std::int64_t>::max()), "do not fit");
  SchedulerOptions options;
  options.chunk = 0;
  EXPECT_EQ(Scheduler::create(session(), options).status().code(), Code::kInvalidArgument);
  options.chunk = 1, options.generator.batch = 0;
  EXPECT_EQ(Scheduler::create(session(), options).status().code(), Code::kInvalidArgument);
}

TEST_F(SchedulerTest, CancelsWhatIsLeftWhenItIsClosed) {
  std::atomic<int> ended = 0, cancelled = 0;
  {
    Scheduler scheduler = this->scheduler(2);
    for (int i = 0; i < 50; ++i) {
      Request request = request_of({0}, 8);
      request.on_end = [&](const Reply& reply) {
        ++ended;
        cancelled += reply.ending == Ending::kCancelled ? 1 : 0;
      };
      ASSERT_TRUE(scheduler.submit(request).ok());
    }
  }
  EXPECT_EQ(ended, 50);
  EXPECT_GT(cancelled, 0);
}

// Clients of many threads submit, cancel and look.
TEST_F(SchedulerTest, ServesManyThreads) {
  Scheduler scheduler = this->scheduler(4);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> clients;
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 20; ++i) {
        if (i % 5 == 4) {
          const auto id = scheduler.submit(request_of({0}, 8));
          if (!id.ok() || !scheduler.cancel(*id).ok()) ++wrong;
          std::ignore = scheduler.metrics();
          continue;
        }
        if (reply_to(scheduler, request_of({client % 4, client % 4}, 3)).tokens != Tokens(3, client % 4)) ++wrong;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(SchedulerTest, ServesProgramsInC) {
  hsmrt_session opened{session()};
  hsmrt_scheduler* scheduler = nullptr;
  hsmrt_error error = {};
  hsmrt_scheduler_options options = {};
  options.size = sizeof options, options.rows = 2;
  ASSERT_EQ(hsmrt_scheduler_create(&opened, &options, &scheduler, &error), HSMRT_OK) << error.message;
  const std::int64_t prompt[] = {3, 3};
  struct Seen {
    Tokens streamed, replied;
    std::int32_t ending = -1;
  } seen;
  hsmrt_request request = {};
  request.size = sizeof request, request.prompt = prompt, request.prompt_count = 2, request.max_tokens = 3;
  request.user = &seen;
  request.on_token = [](void* user, std::int64_t token) {
    static_cast<Seen*>(user)->streamed.push_back(token);
    return 1;
  };
  request.on_end = [](void* user, const hsmrt_reply* reply) {
    static_cast<Seen*>(user)->replied.assign(reply->tokens, reply->tokens + reply->token_count);
    static_cast<Seen*>(user)->ending = reply->ending;
  };
  std::uint64_t id = 0;
  ASSERT_EQ(hsmrt_scheduler_submit(scheduler, &request, &id, &error), HSMRT_OK) << error.message;
  ASSERT_EQ(hsmrt_scheduler_drain(scheduler, &error), HSMRT_OK);
  EXPECT_EQ(id, 1u);
  EXPECT_THAT(seen.streamed, ElementsAre(3, 3, 3));
  EXPECT_EQ(seen.replied, seen.streamed);
  EXPECT_EQ(seen.ending, HSMRT_LENGTH);
  hsmrt_metrics metrics = {};
  metrics.size = sizeof metrics;
  ASSERT_EQ(hsmrt_scheduler_get_metrics(scheduler, &metrics, &error), HSMRT_OK);
  EXPECT_EQ(metrics.tokens, 3u);
  EXPECT_EQ(hsmrt_scheduler_cancel(scheduler, id, &error), HSMRT_OK);
  request.samples = 2;
  request.on_end = [](void* user, const hsmrt_reply* reply) {
    static_cast<Seen*>(user)->replied.clear();
    for (std::size_t i = 0; i < reply->sample_count; ++i) {
      static_cast<Seen*>(user)->replied.push_back(static_cast<std::int64_t>(reply->samples[i].token_count));
    }
  };
  ASSERT_EQ(hsmrt_scheduler_submit(scheduler, &request, nullptr, &error), HSMRT_OK) << error.message;
  ASSERT_EQ(hsmrt_scheduler_drain(scheduler, &error), HSMRT_OK);
  EXPECT_THAT(seen.replied, ElementsAre(3, 3));
  request.samples = 0;
  request.prompt_count = 0;
  EXPECT_EQ(hsmrt_scheduler_submit(scheduler, &request, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_scheduler_submit(nullptr, &request, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  hsmrt_scheduler_close(scheduler);
}

}  // namespace
}  // namespace hsm::testing
