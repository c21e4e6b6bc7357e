// Speculative decoding has the distribution of the target alone, whatever the draft proposes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "hsm_runtime.h"
#include "hsm_runtime/generator.h"
#include "hsm_runtime/speculation.h"
#include "runtime/c_api.h"
#include "runtime/speculation.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::HasSubstr;
using Tokens = std::vector<std::int64_t>;

// The value that a chi-square variable of so many degrees exceeds once in a million times (Wilson and Hilferty 1931).
double chi_square_limit(double degrees) {
  constexpr double kQuantile = 4.7534;  // of the normal distribution, at 1 - 1e-6
  const double ratio = 2 / (9 * degrees);
  return degrees * std::pow(1 - ratio + kQuantile * std::sqrt(ratio), 3);
}

// Two tokens from a target whose second distribution depends on the first token; the draft has others.
TEST(Speculating, HasTheDistributionOfTheTarget) {
  constexpr std::size_t kTokens = 4;
  const std::vector<double> p1 = {0.5, 0.2, 0.3, 0}, q1 = {0.1, 0.6, 0.1, 0.2};
  const std::array<std::vector<double>, kTokens> p2 = {
      {{0.25, 0.25, 0.25, 0.25}, {0.7, 0.1, 0.1, 0.1}, {0, 0, 0.5, 0.5}, {1, 0, 0, 0}}};
  const std::vector<double> q2 = {0.4, 0.3, 0.2, 0.1}, p3 = {0.1, 0.2, 0.3, 0.4};
  constexpr int kRuns = 200000;
  std::uint64_t index = 0;
  const auto uniform = [&] { return runtime::uniform_of(17, index++); };
  std::array<double, kTokens * kTokens> counts = {};
  for (int run = 0; run < kRuns; ++run) {
    const Tokens proposed = {runtime::draw(q1, uniform()), runtime::draw(q2, uniform())};
    const std::array<std::vector<double>, 2> by_draft = {q1, q2};
    const std::array<std::vector<double>, 3> by_target = {p1, p2[static_cast<std::size_t>(proposed[0])], p3};
    Tokens made = runtime::judge(proposed, by_draft, by_target, uniform);
    ASSERT_LE(made.size(), 3u);
    // A refused proposal ends the round; the next one begins with the target's own token.
    if (made.size() == 1) made.push_back(runtime::draw(p2[static_cast<std::size_t>(made[0])], uniform()));
    ++counts[static_cast<std::size_t>(made[0]) * kTokens + static_cast<std::size_t>(made[1])];
  }
  double statistic = 0, degrees = -1;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = kRuns * p1[i / kTokens] * p2[i / kTokens][i % kTokens];
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++degrees;
  }
  EXPECT_LT(statistic, chi_square_limit(degrees));
  // The test would see the draft's distribution.
  double other = 0;
  for (std::size_t i = 0; i < 3; ++i) other += kRuns * std::pow(q1[i] - p1[i], 2) / p1[i];
  EXPECT_GT(other, chi_square_limit(2));
}

class SpeculationTest : public OnnxRuntimeTest {
 protected:
  Session session(const CountingState& state = {}) {
    const Result<Session> session =
        Session::open(*Bundle::open(write_counting_bundle(folder_, state)), Part::kDecode, options_);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *session;
  }
};

// The counting model with spare slots to go back, and one that goes back by a copy.
TEST_F(SpeculationTest, MakesTheTokensOfTheTarget) {
  for (const std::int64_t width : {1, 2, 3}) {
    const Session session = this->session();
    Generator alone = *Generator::create(session);
    ASSERT_TRUE(alone.prefill(Tokens{0, 1, 1}).ok());
    Tokens right;
    while (alone.positions()[0] < alone.capacity()) {
      right.push_back(*alone.sample(0, {}, 0));
      ASSERT_TRUE(alone.step({&right.back(), 1}).ok());
    }
    SpeculationOptions options;
    options.draft_tokens = width;
    auto speculation = Speculation::create(session, session, options);
    ASSERT_TRUE(speculation.ok()) << speculation.status().message();
    EXPECT_THAT(speculation->next().status().message(), HasSubstr("nothing was read"));
    ASSERT_TRUE(speculation->prefill(Tokens{0, 1}).ok());
    ASSERT_TRUE(speculation->prefill(Tokens{1}).ok());
    Tokens made;
    for (auto tokens = speculation->next(); tokens.ok(); tokens = speculation->next()) {
      made.insert(made.end(), tokens->begin(), tokens->end());
    }
    ASSERT_GE(made.size(), right.size()) << width;
    made.resize(right.size());
    EXPECT_EQ(made, right) << width;
    EXPECT_EQ(speculation->accepted(), speculation->proposed());  // the draft is the target
    EXPECT_THAT(speculation->next().status().message(), HasSubstr("reached its capacity"));
  }
}

TEST_F(SpeculationTest, RefusesWhatCannotBe) {
  const Session session = this->session();
  SpeculationOptions options;
  options.draft_tokens = 0;
  EXPECT_EQ(Speculation::create(session, session, options).status().code(), Code::kInvalidArgument);
  options = {};
  options.sampling.presence_penalty = 1;
  EXPECT_THAT(Speculation::create(session, session, options).status().message(), HasSubstr("penalties"));
  auto speculation = Speculation::create(session, session);
  EXPECT_THAT(speculation->prefill(Tokens(10, 0)).message(), HasSubstr("10 tokens, the draft holds 9 more"));
  EXPECT_TRUE(speculation->prefill(Tokens(9, 0)).ok());
}

// Logits that nothing can be chosen from, in the middle of a round: the models have read different tokens then.
TEST_F(SpeculationTest, DoesNotGoOnAfterAFailure) {
  SpeculationOptions options;
  int calls = 0;
  options.sampling.on_logits = [&](std::span<double> logits) { logits[0] = ++calls == 3 ? NAN : 0; };
  auto speculation = Speculation::create(session(), session(), options);
  ASSERT_TRUE(speculation->prefill(Tokens{1}).ok());
  ASSERT_TRUE(speculation->next().ok());
  EXPECT_EQ(speculation->next().status().code(), Code::kRunFailed);
  EXPECT_THAT(speculation->next().status().message(), HasSubstr("failed half-way"));
  EXPECT_EQ(speculation->prefill(Tokens{1}).code(), Code::kInvalidArgument);
}

TEST_F(SpeculationTest, ServesProgramsInC) {
  hsmrt_session session{this->session()};
  hsmrt_speculation* speculation = nullptr;
  hsmrt_error error = {};
  hsmrt_speculation_options options = {};
  options.size = sizeof options;
  options.draft_tokens = 2;
  ASSERT_EQ(hsmrt_speculation_create(&session, &session, &options, &speculation, &error), HSMRT_OK) << error.message;
  const Tokens prompt = {0, 1, 1};
  EXPECT_EQ(hsmrt_speculation_prefill(speculation, prompt.data(), prompt.size(), &error), HSMRT_OK) << error.message;
  std::array<std::int64_t, 3> tokens = {};
  std::size_t count = 0;
  EXPECT_EQ(hsmrt_speculation_next(speculation, tokens.data(), 2, &count, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_speculation_next(speculation, tokens.data(), 3, &count, &error), HSMRT_OK) << error.message;
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(tokens[0], 1);
  EXPECT_EQ(hsmrt_speculation_next(speculation, tokens.data(), 3, &count, &error), HSMRT_OK) << error.message;
  EXPECT_EQ(count, 3u);
  hsmrt_speculation_close(speculation);
  EXPECT_EQ(hsmrt_speculation_next(nullptr, tokens.data(), 3, &count, &error), HSMRT_INVALID_ARGUMENT);
}

// The counting model's logits are the counts of the whole call, padding too, plus one for the token itself.
TEST_F(SpeculationTest, PromptsHaveTheLogitsOfEveryToken) {
  Generator many = *Generator::create(session(), {.batch = 3});
  const std::vector<float> right = {2, 2, 0, 1, 1, 3, 0, 1, 1, 3, 0, 1, 1, 2, 0, 2};
  std::vector<float> every, all;
  ASSERT_TRUE(many.prefill(1, Tokens{0, 1, 1, 3}, &every).ok());
  EXPECT_EQ(every, right);
  ASSERT_TRUE(many.reset(1).ok());
  ASSERT_TRUE(many.prefill(Tokens{9, 9, 9, 9, 0, 1, 1, 3, 0, 1, 9, 9}, Tokens{0, 4, 2}, &all).ok());
  std::vector<float> expected(16);  // the first row stood still
  expected.insert(expected.end(), right.begin(), right.end());
  for (const float logit : {4, 1, 0, 0, 3, 2, 0, 0}) expected.push_back(logit);
  expected.resize(48);  // the third read two tokens
  EXPECT_EQ(all, expected);
}

TEST_F(SpeculationTest, CallsEndWhenTheyAreCancelled) {
  Generator generator = *Generator::create(session());
  std::stop_source source;
  generator.set_stop(source.get_token());
  EXPECT_TRUE(generator.prefill(Tokens{0, 1}).ok());
  source.request_stop();
  EXPECT_EQ(generator.prefill(Tokens{0, 1}).code(), Code::kCancelled);
  EXPECT_FALSE(generator.has_logits(0));
  generator.set_stop({});
  EXPECT_TRUE(generator.reset(0).ok());
  EXPECT_TRUE(generator.prefill(Tokens{0, 1}).ok());

  hsmrt_session opened{session()};
  hsmrt_generator* in_c = nullptr;
  hsmrt_error error = {};
  ASSERT_EQ(hsmrt_generator_create(&opened, 1, 0, &in_c, &error), HSMRT_OK);
  hsmrt_cancellation* cancellation = hsmrt_cancellation_create();
  const Tokens prompt = {0, 1};
  std::array<float, 8> logits = {};
  ASSERT_EQ(hsmrt_generator_set_cancellation(in_c, cancellation, &error), HSMRT_OK);
  EXPECT_EQ(hsmrt_generator_prefill_row_logits(in_c, 0, prompt.data(), 2, logits.data(), 7, &error),
            HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_generator_prefill_row_logits(in_c, 0, prompt.data(), 2, logits.data(), 8, &error), HSMRT_OK);
  EXPECT_EQ(logits[0], 2);
  hsmrt_cancellation_request(cancellation);
  EXPECT_EQ(hsmrt_generator_step(in_c, prompt.data(), 1, &error), HSMRT_RUN_CANCELLED);
  EXPECT_STREQ(hsmrt_code_name(HSMRT_RUN_CANCELLED), "cancelled");
  hsmrt_cancellation_close(cancellation);
  hsmrt_cancellation_close(nullptr);
  hsmrt_cancellation_request(nullptr);
  hsmrt_generator_close(in_c);
}

}  // namespace
}  // namespace hsm::testing
