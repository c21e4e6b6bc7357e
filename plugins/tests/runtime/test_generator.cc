// Generators: the states of a batch, step by step, on a model whose logits count a row's tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "hsm_runtime/generator.h"
#include "runtime/safetensors.h"
#include "runtime/sampling.h"
#include "runtime/session.h"
#include "tests/runtime/allocations.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GeneratorTest : public OnnxRuntimeTest {
 protected:
  Session session(const CountingState& state = {}) {
    const Result<Bundle> bundle = Bundle::open(write_counting_bundle(folder_, state));
    EXPECT_TRUE(bundle.ok()) << bundle.status().message();
    const Result<Session> session = Session::open(*bundle, Part::kDecode, options_);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *session;
  }

  Generator generator(std::int64_t batch, const CountingState& state = {}) {
    Result<Generator> made = Generator::create(session(state), {.batch = batch});
    EXPECT_TRUE(made.ok()) << made.status().message();
    return *std::move(made);
  }
};

using Tokens = std::vector<std::int64_t>;

std::vector<float> logits(const Generator& generator, std::int64_t row) {
  const auto span = generator.logits(row);
  return {span.begin(), span.end()};
}

void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

void expect_refused(const Status& status, const std::string& words) {
  EXPECT_EQ(status.code(), Code::kInvalidArgument) << words;
  EXPECT_THAT(status.message(), HasSubstr(words));
}

TEST_F(GeneratorTest, AdvancesRowsFromTheirOwnPositions) {
  Generator generator = this->generator(2);
  EXPECT_EQ(generator.vocabulary(), 4);
  EXPECT_EQ(generator.capacity(), 9);
  EXPECT_EQ(generator.state_bytes(), 2 * 4 * sizeof(float));
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 2, 0, 0));
  EXPECT_THAT(logits(generator, 1), ElementsAre(0, 0, 3, 0));
  EXPECT_EQ(*generator.sample(1, {}, 0), 2);
  expect_ok(generator.step(Tokens{3, -1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 1, 0, 2));
  EXPECT_THAT(logits(generator, 1), ElementsAre(0, 0, 3, 0));  // it stood still
  expect_ok(generator.step(Tokens{0, 0}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(3, 1, 0, 1));
  EXPECT_THAT(logits(generator, 1), ElementsAre(2, 0, 2, 0));
  EXPECT_THAT(std::vector(generator.positions().begin(), generator.positions().end()), ElementsAre(4, 3));
}

TEST_F(GeneratorTest, ForksResetsAndGoesBack) {
  Generator generator = this->generator(2);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  expect_ok(generator.fork(1, 0));
  EXPECT_THAT(logits(generator, 0), ElementsAre(0, 0, 3, 0));
  expect_ok(generator.step(Tokens{2, 3}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(0, 0, 4, 0));
  EXPECT_THAT(logits(generator, 1), ElementsAre(0, 0, 2, 2));
  expect_ok(generator.reset(0));
  expect_ok(generator.step(Tokens{1, -1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(0, 2, 0, 0));
  EXPECT_EQ(generator.positions()[0], 1);

  expect_ok(generator.rollback(1, 2));
  EXPECT_EQ(generator.positions()[1], 1);
  expect_refused(generator.rollback(1, 1), "too few");
  expect_refused(generator.rollback(1, 2), "cannot take 2 tokens back from a row of 1");
  expect_refused(generator.rollback(2, 1), "no row 2");
  expect_refused(generator.rollback(-1, 1), "no row -1");
  expect_refused(generator.fork(0, 2), "no row 2");
  EXPECT_TRUE(generator.logits(2).empty());
}

// Logits belong to the row as it is, or there are none.
TEST_F(GeneratorTest, NeverAnswersFromAnotherSequence) {
  Generator generator = this->generator(2);
  const auto expect_none = [&](std::int64_t row) {
    EXPECT_FALSE(generator.has_logits(row));
    EXPECT_TRUE(generator.logits(row).empty());
    expect_refused(generator.sample(row, {}, 0).status(), "has no logits to choose from");
  };
  expect_none(0);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  EXPECT_TRUE(generator.has_logits(0));
  expect_ok(generator.rollback(0, 0));
  EXPECT_TRUE(generator.has_logits(0));
  expect_ok(generator.rollback(0, 1));
  expect_none(0);
  expect_ok(generator.step(Tokens{-1, 3}));
  expect_none(0);
  expect_ok(generator.fork(0, 1));
  expect_none(1);
  expect_ok(generator.step(Tokens{1, -1}));
  EXPECT_TRUE(generator.has_logits(0));
  expect_none(1);
  expect_ok(generator.reset(0));
  expect_none(0);
  EXPECT_FALSE(generator.has_logits(2));
  EXPECT_FALSE(generator.has_logits(-1));
}

// Rows that join, wait and leave in any order give what each gives alone.
TEST_F(GeneratorTest, RowsWorkInAnyCompany) {
  constexpr std::int64_t kRows = 5;
  for (const CountingState& state : {CountingState{}, kCountingApart}) {
    Generator together = this->generator(kRows, state);
    std::vector<Generator> alone;
    for (std::int64_t row = 0; row < kRows; ++row) alone.push_back(this->generator(1, state));
    std::uint32_t random = 1;
    for (int call = 0; call < 300; ++call) {
      Tokens tokens;
      for (std::int64_t row = 0; row < kRows; ++row) {
        random = random * 1664525 + 1013904223;
        const auto index = static_cast<std::size_t>(row);
        if (together.positions()[index] == together.capacity()) {
          expect_ok(together.reset(row));
          expect_ok(alone[index].reset(0));
        }
        tokens.push_back((random >> 28) < 7 ? -1 : static_cast<std::int64_t>((random >> 24) % 4));
        if (tokens.back() >= 0) expect_ok(alone[index].step({&tokens.back(), 1}));
      }
      expect_ok(together.step(tokens));
      for (std::int64_t row = 0; row < kRows; ++row) {
        ASSERT_EQ(logits(together, row), logits(alone[static_cast<std::size_t>(row)], 0)) << call << " " << row;
      }
    }
  }
}

TEST_F(GeneratorTest, ARowReadsAPromptAlone) {
  Generator generator = this->generator(3);
  expect_ok(generator.prefill(1, Tokens{0, 1, 1}));
  EXPECT_THAT(logits(generator, 1), ElementsAre(1, 3, 0, 0));
  EXPECT_THAT(std::vector(generator.positions().begin(), generator.positions().end()), ElementsAre(0, 3, 0));
  EXPECT_FALSE(generator.has_logits(0));
  expect_refused(generator.prefill(1, Tokens{}), "at least one token");
  expect_refused(generator.prefill(1, Tokens{4}), "token id 4");
  expect_refused(generator.prefill(1, Tokens(7, 0)), "would reach 10 tokens");
  expect_refused(generator.prefill(3, Tokens{0}), "no row 3");
}

TEST_F(GeneratorTest, RowsMoveBetweenGenerators) {
  Generator shared = this->generator(1), many = this->generator(3, kCountingApart);
  expect_ok(shared.prefill(Tokens{0, 1, 2}));
  expect_ok(many.step(Tokens{3, 3, -1}));
  expect_ok(many.fork(shared, 0, 1));
  EXPECT_EQ(logits(many, 1), logits(shared, 0));
  expect_ok(many.step(Tokens{3, 0, 0}));
  expect_ok(shared.step(Tokens{0}));
  EXPECT_EQ(logits(many, 1), logits(shared, 0));
  EXPECT_THAT(logits(many, 0), ElementsAre(0, 0, 0, 3));
  EXPECT_THAT(logits(many, 2), ElementsAre(2, 0, 0, 0));
  expect_refused(many.fork(shared, 1, 0), "no row 1");
  expect_refused(many.fork(shared, 0, 3), "no row 3");
}

TEST_F(GeneratorTest, ParksOneRow) {
  Generator generator = this->generator(3), other = this->generator(2);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2, 3, 3}));
  expect_ok(generator.step(Tokens{-1, 0, -1}));
  const std::string path = (folder_.path() / "row.safetensors").string();
  expect_ok(generator.save_row(1, path));
  expect_ok(other.load_row(0, path));
  EXPECT_EQ(logits(other, 0), logits(generator, 1));  // they came with it
  expect_ok(other.step(Tokens{1, 1}));
  expect_ok(generator.step(Tokens{-1, 1, -1}));
  EXPECT_EQ(logits(other, 0), logits(generator, 1));
  EXPECT_EQ(other.positions()[0], 4);
  expect_refused(other.load(path), "holds 1 rows, not 2");
  expect_refused(other.load_row(2, path), "no row 2");
}

TEST_F(GeneratorTest, SumsCannotGoBack) {
  for (const CountingState& state : {kCountingSums, counting_state_of_kind("taylor")}) {
    Generator generator = this->generator(1, state);
    expect_ok(generator.prefill(Tokens{0, 1}));
    expect_ok(generator.rollback(0, 0));
    expect_refused(generator.rollback(0, 1), "the state 0.sum holds no single tokens");
  }
}

TEST_F(GeneratorTest, TheFirstSchemaMeansWhatItMeant) {
  Generator generator = this->generator(1, counting_state_of_kind("ring"));
  expect_ok(generator.prefill(Tokens{0, 1, 1}));
  expect_ok(generator.rollback(0, 2));
  expect_ok(generator.prefill(Tokens{0, 1}));
  expect_refused(generator.rollback(0, 3), "spare slots to take 2 tokens back, 1 too few");
}

TEST_F(GeneratorTest, RefusesWhatDoesNotFitAndStaysAsItWas) {
  Generator generator = this->generator(2);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  expect_refused(generator.step(Tokens{0}), "one token for each");
  expect_refused(generator.step(Tokens{0, 4}), "token id 4 is not in 0..3");
  expect_refused(generator.step(Tokens{0, -2}), "token id -2");
  expect_refused(generator.prefill(Tokens{}), "as many token ids");
  expect_refused(generator.prefill(Tokens{0, 1, 2}), "as many token ids");
  expect_refused(generator.prefill(Tokens{0, 1}, Tokens{1}), "one length");
  expect_refused(generator.prefill(Tokens{0, 1}, Tokens{1, 2}), "from 0 to 1");
  expect_refused(generator.prefill(Tokens(16, 0)), "would reach 10 tokens");
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 2, 0, 0));
  EXPECT_THAT(std::vector(generator.positions().begin(), generator.positions().end()), ElementsAre(2, 2));
  expect_ok(generator.prefill(Tokens(14, 0)));
  expect_refused(generator.step(Tokens{-1, 0}), "row 1 would reach 10 tokens, but the state holds 9");

  const Session session = this->session();
  expect_refused(Generator::create(session, {.batch = 0}).status(), "at least one row");
  expect_refused(Generator::create(session, {.capacity = 10}).status(), "can reach 9 tokens");
  const Result<Session> model = Session::open(*Bundle::open(write_counting_bundle(folder_)), Part::kModel, options_);
  expect_refused(Generator::create(*model).status(), "Part::kDecode");
}

TEST_F(GeneratorTest, SavesAndLoads) {
  Generator generator = this->generator(2);
  expect_ok(generator.prefill(Tokens{0, 1, 2, 2}));
  const std::string path = (folder_.path() / "state.safetensors").string();
  expect_ok(generator.save(path));
  Generator other = this->generator(2);
  expect_ok(other.step(Tokens{3, 3}));
  expect_ok(other.load(path));
  expect_ok(other.step(Tokens{3, 3}));
  expect_ok(generator.step(Tokens{3, 3}));
  for (const std::int64_t row : {0, 1}) EXPECT_EQ(logits(other, row), logits(generator, row));
  EXPECT_THAT(std::vector(other.positions().begin(), other.positions().end()), ElementsAre(3, 3));

  Generator narrow = this->generator(1);
  expect_refused(narrow.load(path), "holds 2 rows, not 1");
  expect_refused(narrow.load(path + ".gone"), "no plain file");
  std::filesystem::resize_file(path, 50);
  EXPECT_EQ(other.load(path).code(), Code::kBadBundle);
  EXPECT_FALSE(generator.save("/nonexistent/state").ok());
}

TEST_F(GeneratorTest, StepsAllocateNothingOfTheirOwn) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer has its own operator new";
  const Session session = this->session();
  Result<Generator> generator = Generator::create(session);
  const Tokens token = {1};
  std::int64_t id = 1;
  std::vector<float> logits(4), past(4), present(4);
  const std::array<std::int64_t, 3> shape = {1, 1, 4};
  const std::array<std::int64_t, 2> one = {1, 1};
  const std::span<const std::int64_t> row(one.data(), 1);
  const std::array inputs = {NamedTensor{"tokens", {&id, DType::kInt64, one}},
                             NamedTensor{"position", {&id, DType::kInt64, row}},
                             NamedTensor{"lengths", {&id, DType::kInt64, row}},
                             NamedTensor{"past.0.sum", {past.data(), DType::kFloat32, shape}}};
  const std::array outputs = {NamedTensor{"logits", {logits.data(), DType::kFloat32, shape}},
                              NamedTensor{"present.0.sum", {present.data(), DType::kFloat32, shape}}};
  const auto bare = session.impl().program->bind(inputs, outputs, {});
  const auto count = [](const auto& body) {
    body();  // buffers that ONNX Runtime makes once
    const long before = allocations();
    for (int i = 0; i < 3; ++i) body();
    return allocations() - before;
  };
  const long of_onnxruntime = count([&] { bare->run(); });
  const long of_steps = count([&] {
    if (!generator->step(token).ok() || !generator->sample(0, {.temperature = 1}, 0.5).ok()) std::abort();
  });
  EXPECT_GT(allocations(), 0);
  EXPECT_EQ(of_steps, of_onnxruntime);
}

std::int64_t choose(std::vector<float> values, const Sampling& sampling, double uniform) {
  runtime::SamplingRoom room(values.size());
  return runtime::choose(values, sampling, uniform, room);
}

TEST(Sampling, ChoosesByProbability) {
  const std::vector<float> values = {0, 2, 1, 2};
  EXPECT_EQ(choose(values, {}, 0.9), 1);
  EXPECT_EQ(choose(values, {.temperature = 1}, 0.0), 1);
  EXPECT_EQ(choose(values, {.temperature = 1}, 0.999999), 0);
  EXPECT_EQ(choose(values, {.temperature = 1, .top_k = 2}, 0.999999), 3);
  EXPECT_EQ(choose(values, {.temperature = 1, .top_p = 0.1}, 0.999999), 1);
  // exp(0) + exp(0) + exp(-1) + exp(-2) = 2.503; the second token ends at 2 / 2.503 = 0.799.
  EXPECT_EQ(choose(values, {.temperature = 1}, 0.79), 3);
  EXPECT_EQ(choose(values, {.temperature = 1}, 0.81), 2);
}

TEST(Sampling, AddsBiasAndAsksTheCallback) {
  Sampling sampling;
  sampling.logit_bias = {{2, 1.5}};
  EXPECT_EQ(choose({0, 2, 1, 2}, sampling, 0), 2);
  sampling.on_logits = [](std::span<double> logits) { logits[0] = 9; };
  EXPECT_EQ(choose({0, 2, 1, 2}, sampling, 0), 0);
  sampling = {.min_p = 2};
  EXPECT_ANY_THROW(choose({0, 1}, sampling, 0));
  EXPECT_ANY_THROW(choose({0, 1}, {.repetition_penalty = 2}, 0));
  sampling = {};
  sampling.logit_bias = {{2, 0}};
  EXPECT_ANY_THROW(choose({0, 1}, sampling, 0));
}

TEST_F(GeneratorTest, ASamplerKnowsWhatCameBefore) {
  Generator generator = this->generator(1);
  Result<Sampler> sampler = Sampler::create({.presence_penalty = 5}, 0, generator.vocabulary());
  ASSERT_TRUE(sampler.ok());
  expect_refused(generator.sample(0, *sampler).status(), "has no logits");
  expect_ok(generator.prefill(Tokens{0, 1, 1}));
  EXPECT_THAT(logits(generator, 0), ElementsAre(1, 3, 0, 0));
  const Result<Choice> first = generator.sample(0, *sampler, 2);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->token, 1);
  EXPECT_NEAR(first->log_probability, -std::log(1 + std::exp(-2) + 2 * std::exp(-3)), 1e-12);
  ASSERT_EQ(first->top.size(), 2u);
  EXPECT_EQ(first->top[1].token, 0);
  EXPECT_EQ(generator.sample(0, *sampler)->token, 0);  // the same logits, less what was chosen
  expect_refused(Sampler::create({.repetition_penalty = 0}, 0, 4).status(), "repetition penalty");
  expect_refused(sampler->read(Tokens{4}), "is not in 0..3");
  expect_refused(sampler->choose(std::vector<float>(3)).status(), "4 logits, not 3");
}

TEST(Sampling, RefusesNonsense) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  EXPECT_ANY_THROW(choose({0, nan}, {}, 0));
  EXPECT_ANY_THROW(choose({nan, 0}, {}, 0));
  EXPECT_ANY_THROW(choose({0, infinity}, {}, 0));
  EXPECT_ANY_THROW(choose({-infinity, -infinity}, {}, 0));
  EXPECT_EQ(choose({-infinity, 0}, {.temperature = 1}, 0.99), 1);
  EXPECT_ANY_THROW(choose({0, 1}, {.temperature = -1}, 0));
  EXPECT_ANY_THROW(choose({0, 1}, {.temperature = nan}, 0));
  EXPECT_ANY_THROW(choose({0, 1}, {.top_k = -1}, 0));
  EXPECT_ANY_THROW(choose({0, 1}, {.top_p = 0}, 0));
  EXPECT_ANY_THROW(choose({0, 1}, {}, 1));
}

}  // namespace
}  // namespace hsm::testing
