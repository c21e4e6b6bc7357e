// Several replies to one prompt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <vector>

#include "tests/runtime/scheduler_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::HasSubstr;

class SamplesTest : public SchedulerTest {};

TEST_F(SamplesTest, SamplesOfOnePromptAreThoseOfTheirSeedsAlone) {
  Scheduler scheduler = this->scheduler(4);
  Request request = request_of({0, 1, 2, 1}, 5);
  request.sampling.temperature = 1;
  request.log_probabilities = 0;
  request.seed = 5;
  std::vector<Reply> alone;
  for (int i = 0; i < 3; ++i, ++request.seed) alone.push_back(reply_to(scheduler, request));
  request.seed = 5, request.samples = 3;
  std::vector<Tokens> streamed(3);
  request.on_sample_token = [&](std::int64_t sample, std::int64_t token) {
    streamed[static_cast<std::size_t>(sample)].push_back(token);
    return true;
  };
  const std::uint64_t read_before = scheduler.metrics().prompt_tokens;
  Reply reply = reply_to(scheduler, request);
  EXPECT_EQ(scheduler.metrics().prompt_tokens, read_before + 4);  // the prompt was read once
  ASSERT_EQ(reply.samples.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(reply.samples[i].index, static_cast<std::int64_t>(i));
    EXPECT_EQ(reply.samples[i].tokens, alone[i].tokens);
    EXPECT_EQ(reply.samples[i].log_probability, alone[i].log_probability);
    EXPECT_EQ(streamed[i], alone[i].tokens);
  }
  EXPECT_EQ(reply.tokens, alone[0].tokens);
  request.best = 2;
  reply = reply_to(scheduler, request);
  ASSERT_EQ(reply.samples.size(), 2u);
  EXPECT_GE(reply.samples[0].log_probability, reply.samples[1].log_probability);
  for (const Reply& one : alone) {
    EXPECT_LE(std::min(one.log_probability, reply.samples[1].log_probability), reply.samples[1].log_probability);
  }
  EXPECT_EQ(reply.tokens, reply.samples[0].tokens);
  EXPECT_TRUE(scheduler.drain().ok());  // a request counts when its callback has returned
  EXPECT_EQ(scheduler.metrics().ended, 5u);
}

TEST_F(SamplesTest, SamplesEndOneByOne) {
  Scheduler scheduler = this->scheduler(3, 1);
  Request request = request_of({0, 1}, 7);
  request.samples = 3;
  request.on_sample_token = [](std::int64_t sample, std::int64_t) { return sample != 1; };
  Reply reply = reply_to(scheduler, request);
  EXPECT_EQ(reply.samples[1].ending, Ending::kCancelled);
  EXPECT_EQ(reply.samples[1].tokens.size(), 1u);
  EXPECT_EQ(reply.samples[2].ending, Ending::kLength);
  EXPECT_EQ(reply.samples[2].tokens.size(), 7u);
  // When one cannot read the prompt for the others, another tries, and fails by itself.
  request.on_sample_token = nullptr;
  request.resume = "nowhere.safetensors";
  reply = reply_to(scheduler, request);
  for (const Sample& sample : reply.samples) EXPECT_EQ(sample.ending, Ending::kFailed);
  EXPECT_FALSE(reply.status.ok());
  EXPECT_EQ(reply_to(scheduler, request_of({0, 1}, 2)).tokens.size(), 2u);
  EXPECT_EQ(scheduler.metrics().active, 0u);
}

TEST_F(SamplesTest, SamplesAreCancelledTogetherWhileTheirPromptIsRead) {
  Scheduler scheduler = this->scheduler(3, 1);
  Request several = request_of({0, 1, 2, 1, 1, 1, 1}, 2);
  several.samples = 2;
  std::promise<Reply> ended;
  several.on_end = [&](const Reply& reply) { ended.set_value(reply); };
  Request other = request_of({0}, 7);
  int seen = 0;
  std::uint64_t id = 0;
  other.on_token = [&](std::int64_t) {
    if (++seen == 1) id = *scheduler.submit(several);
    if (seen == 4) {
      EXPECT_TRUE(scheduler.cancel(id).ok());
    }
    return true;
  };
  EXPECT_EQ(reply_to(scheduler, other).tokens.size(), 7u);
  const Reply reply = ended.get_future().get();
  ASSERT_EQ(reply.samples.size(), 2u);
  for (const Sample& sample : reply.samples) {
    EXPECT_EQ(sample.ending, Ending::kCancelled);
    EXPECT_TRUE(sample.tokens.empty());
  }
  EXPECT_TRUE(scheduler.drain().ok());
  EXPECT_EQ(scheduler.metrics().active, 0u);
}

TEST_F(SamplesTest, RefusesSamplesThatNeverFit) {
  Scheduler scheduler = this->scheduler(2);
  Request request = request_of({0, 1}, 2);
  request.samples = 3;
  EXPECT_THAT(scheduler.submit(request).status().message(), HasSubstr("1 to 2 samples"));
  request.samples = 2, request.best = 3;
  EXPECT_THAT(scheduler.submit(request).status().message(), HasSubstr("from 0 to 2"));
  request.best = 0, request.park = "row.safetensors";
  EXPECT_THAT(scheduler.submit(request).status().message(), HasSubstr("none can be parked"));
}

}  // namespace
}  // namespace hsm::testing
