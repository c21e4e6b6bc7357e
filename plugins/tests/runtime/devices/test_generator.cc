// Generators on an engine: the states stay on the device, and one buffer serves where the plugins allow it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hsm_runtime/generator.h"
#include "tests/runtime/devices/engine_bundle.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Tokens = std::vector<std::int64_t>;

class TensorRtGeneratorTest : public ::testing::Test {
 protected:
  void SetUp() override { fake_gpu().reset(); }
  void TearDown() override { expect_clean(); }

  Result<Session> open(bool has_plugins, const CountingState& state = {}) {
    options_.plugin_library = fake_gpu_library();
    const FakeEngine engine = {.of = "decode", .plugins = has_plugins, .content = "counting"};
    const Result<Bundle> bundle = Bundle::open(write_engine_bundle(folder_, {engine}, state));
    EXPECT_TRUE(bundle.ok()) << bundle.status().message();
    return Session::open(*bundle, Part::kDecode, options_);
  }

  Generator generator(std::int64_t batch, bool has_plugins, const CountingState& state = {}) {
    const Result<Session> session = open(has_plugins, state);
    EXPECT_TRUE(session.ok()) << session.status().message();
    Result<Generator> made = Generator::create(*session, {.batch = batch});
    EXPECT_TRUE(made.ok()) << made.status().message();
    return *std::move(made);
  }

  TemporaryFolder folder_;
  SessionOptions options_ = fake_options();
};

std::vector<float> logits(const Generator& generator, std::int64_t row) {
  const auto span = generator.logits(row);
  return {span.begin(), span.end()};
}

void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

void expect_sequences(Generator generator) {
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 2, 0, 0));
  EXPECT_THAT(logits(generator, 1), ElementsAre(0, 0, 3, 0));
  expect_ok(generator.step(Tokens{3, -1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 1, 0, 2));
  expect_ok(generator.fork(1, 0));
  expect_ok(generator.step(Tokens{0, 1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(2, 0, 2, 0));
  EXPECT_THAT(logits(generator, 1), ElementsAre(0, 2, 2, 0));
  expect_ok(generator.reset(0));
  expect_ok(generator.step(Tokens{1, -1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(0, 2, 0, 0));
  EXPECT_EQ(generator.positions()[0], 1);
}

TEST_F(TensorRtGeneratorTest, AdvancesInOneBufferOrInTwo) {
  expect_sequences(generator(2, true));
  expect_sequences(generator(2, true, kCountingSums));
  expect_sequences(generator(2, true, kCountingApart));
  expect_sequences(generator(2, true, counting_state_of_kind("ring")));
  expect_sequences(generator(2, false));
}

TEST_F(TensorRtGeneratorTest, HasOneBufferWhereThePluginsUpdateInPlace) {
  const auto buffers = [&](bool has_plugins, const CountingState& state) {
    const Result<Session> session = open(has_plugins, state);
    EXPECT_TRUE(session.ok()) << session.status().message();
    const int before = fake_gpu().live["memory"];
    const Result<Generator> generator = Generator::create(*session, {.batch = 2});
    EXPECT_TRUE(generator.ok()) << generator.status().message();
    return fake_gpu().live["memory"] - before;
  };
  EXPECT_EQ(buffers(true, {}), 1);
  EXPECT_EQ(buffers(true, kCountingSums), 1);
  EXPECT_EQ(buffers(true, kCountingApart), 2);
  EXPECT_EQ(buffers(false, {}), 2);
  // The first schema did not say what a kernel updates in place.
  EXPECT_EQ(buffers(true, counting_state_of_kind("ring")), 2);
}

TEST_F(TensorRtGeneratorTest, MovesTokensAndLogitsAlone) {
  Generator generator = this->generator(2, true);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  expect_ok(generator.step(Tokens{3, 3}));
  expect_ok(generator.step(Tokens{3, 3}));
  fake_gpu().calls.clear();
  expect_ok(generator.step(Tokens{0, 0}));
  // Tokens, positions and lengths of two rows in, logits of two rows out; nothing is set, made or allocated anew.
  EXPECT_THAT(fake_gpu().calls, ElementsAre("cudaGetDevice", "cudaMemcpyAsync to device 16",
                                            "cudaMemcpyAsync to device 16", "cudaMemcpyAsync to device 16", "enqueueV3",
                                            "cudaMemcpyAsync to host 32", "cudaEventRecord", "cudaEventSynchronize"));
}

TEST_F(TensorRtGeneratorTest, TakesTheProfileOfStepsAndThatOfPrompts) {
  Generator generator = this->generator(1, true);
  expect_ok(generator.prefill(Tokens{0, 1, 2}));
  expect_ok(generator.step(Tokens{3}));
  expect_ok(generator.prefill(Tokens{1, 1}));
  EXPECT_THAT(calls_of({"setOptimizationProfileAsync"}),
              ElementsAre("setOptimizationProfileAsync 0", "setOptimizationProfileAsync 1"));
  const Status status = generator.prefill(Tokens(9, 0));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
}

TEST_F(TensorRtGeneratorTest, SavesAndLoads) {
  Generator generator = this->generator(2, true);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  const std::string path = (folder_.path() / "state.safetensors").string();
  expect_ok(generator.save(path));
  Generator other = this->generator(2, true);
  expect_ok(other.step(Tokens{3, 3}));
  expect_ok(other.load(path));
  expect_ok(other.step(Tokens{3, 3}));
  expect_ok(generator.step(Tokens{3, 3}));
  for (const std::int64_t row : {0, 1}) EXPECT_EQ(logits(other, row), logits(generator, row));
  expect_ok(generator.rollback(0, 1));
  EXPECT_EQ(generator.positions()[0], 2);
}

TEST_F(TensorRtGeneratorTest, RefusesBatchesThatTheEngineDoesNotTake) {
  const Result<Session> session = open(true);
  ASSERT_TRUE(session.ok()) << session.status().message();
  const Result<Generator> generator = Generator::create(*session, {.batch = 5});
  EXPECT_EQ(generator.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(generator.status().message(), HasSubstr("profile 1 takes 'tokens' from (1, 1) to (4, 1), not (5, 1)"));
}

TEST_F(TensorRtGeneratorTest, SurvivesEveryFailureOfEveryFunction) {
  const std::string path = (folder_.path() / "state.safetensors").string();
  const Result<Session> session = open(true);
  ASSERT_TRUE(session.ok()) << session.status().message();
  const auto scenario = [&]() -> Status {
    Result<Generator> generator = Generator::create(*session, {.batch = 2});
    if (!generator.ok()) return generator.status();
    Status status = generator->prefill(Tokens{0, 1, 2, 2});
    if (status.ok()) status = generator->step(Tokens{1, 1});
    if (status.ok()) status = generator->fork(0, 1);
    if (status.ok()) status = generator->reset(0);
    if (status.ok()) status = generator->save(path);
    if (status.ok()) status = generator->load(path);
    return status;
  };
  const Status good = scenario();  // also makes the lanes
  ASSERT_TRUE(good.ok()) << good.message();
  fake_gpu().reset();
  ASSERT_TRUE(scenario().ok());
  const std::map<std::string, int> counts = fake_gpu().counts;
  const int memory = fake_gpu().live["memory"];
  for (const auto& [name, count] : counts) {
    if (name == "cudaFree" || name.ends_with("Destroy")) continue;
    for (int call = 1; call <= count; ++call) {
      fake_gpu().reset();
      fake_gpu().failing = name, fake_gpu().failing_call = call;
      const Status status = scenario();
      EXPECT_FALSE(status.ok()) << name << " " << call;
      EXPECT_THAT(fake_gpu().violations, IsEmpty());
      EXPECT_LE(fake_gpu().live["memory"], memory) << name << " " << call;
    }
  }
}

}  // namespace
}  // namespace hsm::testing
