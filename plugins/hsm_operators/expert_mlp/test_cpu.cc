#include "hsm_operators/expert_mlp/args.gen.h"

#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

enum class Logits { kNormal, kTied, kMasked, kSaturated, kAllMasked };

struct Case {
  std::int64_t batch, length, experts, inputs, hidden, outputs, active, activation;
  DType type = DType::kFloat32;
  Logits logits = Logits::kNormal;
  std::size_t misalignment = 0;
};

float random_logit(Logits kind, std::mt19937& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (kind) {
    case Logits::kTied:
      return static_cast<float>(testing::uniform(random, 0, 1));
    case Logits::kMasked:
      return testing::uniform(random, 0, 1) == 0 ? -kInfinity : std::normal_distribution<float>()(random);
    case Logits::kSaturated:
      return testing::uniform(random, 0, 1) == 0 ? -1e4f : 1e4f;
    case Logits::kAllMasked:
      return -kInfinity;
    case Logits::kNormal:
      break;
  }
  return std::normal_distribution<float>()(random);
}

class ExpertMlp {
 public:
  ExpertMlp(const Case& own, std::mt19937& random)
      : case_(own),
        x_(own.type, size(own.batch * own.length * own.inputs), own.misalignment),
        logits_(DType::kFloat32, size(own.batch * own.length * own.experts)),
        up_(own.type, size(own.experts * own.inputs * own.hidden), own.misalignment),
        down_(own.type, size(own.experts * own.hidden * own.outputs), own.misalignment) {
    x_.randomize(random);
    up_.randomize(random, 1 / std::sqrt(static_cast<float>(own.inputs)));
    down_.randomize(random);
    for (std::size_t i = 0; i < logits_.size(); ++i) logits_.set(i, random_logit(own.logits, random));
  }

  Buffer naive() {
    Buffer y = output();
    expert_mlp_naive(args(y));
    return y;
  }

  Buffer run(const ParallelFor& parallel_for = {}) {
    Buffer y = output();
    expert_mlp(args(y), parallel_for);
    return y;
  }

  // Puts NaN into the weights of an expert that no token may use.
  void poison_expert(std::int64_t expert) {
    for (Buffer* weight : {&up_, &down_}) {
      const std::size_t matrix = weight->size() / size(case_.experts);
      for (std::size_t i = 0; i < matrix; ++i) {
        weight->set(size(expert) * matrix + i, std::numeric_limits<float>::quiet_NaN());
      }
    }
  }

  Buffer& logits() { return logits_; }
  Buffer& x() { return x_; }

 private:
  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

  Buffer output() const {
    Buffer y(case_.type, size(case_.batch * case_.length * case_.outputs), case_.misalignment);
    y.poison();
    return y;
  }

  ExpertMlpArgs args(Buffer& y) {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs,
            .experts = case_.experts,
            .hidden = case_.hidden,
            .outputs = case_.outputs,
            .active = case_.active,
            .activation = case_.activation,
            .type = case_.type,
            .x = x_.data(),
            .logits = static_cast<const float*>(static_cast<const void*>(logits_.data())),
            .up = up_.data(),
            .down = down_.data(),
            .y = y.data()};
  }

  Case case_;
  Buffer x_, logits_, up_, down_;
};

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 127, 129, 300};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 76, 100, 129, 260};
  const std::int64_t experts = testing::uniform(random, 1, 6);
  const DType type = testing::kTypes[testing::uniform(random, 0, 2)];
  return {.batch = testing::uniform(random, 1, 2),
          .length = kLengths[testing::uniform(random, 0, 9)],
          .experts = experts,
          .inputs = kWidths[testing::uniform(random, 0, 15)],
          .hidden = kWidths[testing::uniform(random, 0, 15)],
          .outputs = kWidths[testing::uniform(random, 0, 15)],
          .active = testing::uniform(random, 1, static_cast<int>(experts)),
          .activation = testing::uniform(random, 0, 2),
          .type = type,
          .logits = static_cast<Logits>(testing::uniform(random, 0, 4)),
          .misalignment = size_of(type) * static_cast<std::size_t>(testing::uniform(random, 0, 3))};
}

std::string describe(const Case& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " E=" + std::to_string(c.experts) +
         " inputs=" + std::to_string(c.inputs) + " hidden=" + std::to_string(c.hidden) +
         " outputs=" + std::to_string(c.outputs) + " k=" + std::to_string(c.active) +
         " activation=" + std::to_string(c.activation) + " " + name_of(c.type) + " logits " +
         std::to_string(static_cast<int>(c.logits));
}

void expect_equal(const Case& c, std::mt19937& random) {
  ExpertMlp op(c, random);
  testing::expect_close(op.run(), op.naive(), static_cast<double>(c.inputs + c.hidden * c.active), describe(c));
}

TEST(ExpertMlp, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 120; ++i) expect_equal(random_case(random), random);
}

TEST(ExpertMlp, WideModelsEqualTheDefinition) {
  std::mt19937 random(2);
  for (const DType type : testing::kTypes) expect_equal({1, 60, 5, 1030, 300, 530, 2, 1, type}, random);
}

TEST(ExpertMlp, ManyExpertsEqualTheDefinition) {
  std::mt19937 random(3);
  for (const DType type : testing::kTypes) expect_equal({1, 90, 155, 40, 24, 41, 4, 0, type}, random);
}

// More tokens than one tile holds, and experts with more rows than one task takes.
TEST(ExpertMlp, LongSequencesEqualTheDefinition) {
  std::mt19937 random(4);
  expect_equal({2, 1100, 3, 9, 20, 17, 2, 2, DType::kFloat32}, random);
  expect_equal({1, 2100, 1, 5, 18, 6, 1, 0, DType::kFloat16}, random);
}

TEST(ExpertMlp, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(5);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 15; ++i) expect_equal(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(ExpertMlp, EveryNumberOfTokensOfAnExpertIsExact) {
  std::mt19937 random(6);
  for (std::int64_t tokens = 1; tokens <= 76; ++tokens) expect_equal({1, tokens, 1, 40, 76, 33, 1, 1}, random);
}

// From where GELU is 0 to where it is the number itself.
TEST(ExpertMlp, ActivationsOfSmallAndLargeNumbersAreExact) {
  std::mt19937 random(7);
  for (const std::int64_t activation : {0, 1, 2}) {
    for (const float scale : {1e-20f, 1e-3f, 10.0f, 1e4f}) {
      ExpertMlp op({1, 300, 1, 1, 1, 1, 1, activation}, random);
      op.x().randomize(random, scale);
      const Buffer actual = op.run(), expected = op.naive();
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const double bound = 1e-6 * std::fabs(double{expected.at(i)}) + 4e-7 * std::min(scale, 10.0f);
        ASSERT_NEAR(actual.at(i), expected.at(i), bound) << activation << " of about " << scale;
      }
    }
  }
}

TEST(ExpertMlp, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(8);
  testing::Pool pool(4);
  for (const std::int64_t length : {1, 5, 200, 1300}) {
    ExpertMlp op({1, length, 4, 50, 70, 300, 2, 1}, random);
    EXPECT_TRUE(op.run().same_bits(op.run(pool.parallel_for())));
  }
}

TEST(ExpertMlp, TiesGoToTheLowerIndex) {
  std::mt19937 random(9);
  for (const std::int64_t length : {1, 50}) {
    ExpertMlp op({1, length, 5, 20, 30, 17, 2, 0}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, 1.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    const Buffer y = op.run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_FALSE(std::isnan(y.at(i)));
  }
}

TEST(ExpertMlp, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(10);
  for (const std::int64_t length : {1, 50}) {
    ExpertMlp op({1, length, 2, 20, 30, 40, 2, 1}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, -1e4f);
    op.poison_expert(0);
    op.poison_expert(1);
    const Buffer y = op.run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.at(i), 0.0f);
  }
}

TEST(ExpertMlp, NotANumberIsSeen) {
  std::mt19937 random(11);
  for (const std::int64_t activation : {0, 1, 2}) {
    ExpertMlp op({1, 3, 4, 16, 8, 16, 2, activation}, random);
    op.logits().set(4 + 3, std::numeric_limits<float>::quiet_NaN());  // the second token's last expert
    op.x().set(2 * 16 + 5, std::numeric_limits<float>::quiet_NaN());  // the third token
    const Buffer y = op.run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y.at(i)), i >= 16);
  }
}

TEST(ExpertMlp, EmptySizesAreRight) {
  std::mt19937 random(12);
  EXPECT_EQ(ExpertMlp({0, 4, 3, 8, 8, 8, 2, 0}, random).run().size(), 0U);
  EXPECT_EQ(ExpertMlp({1, 4, 3, 8, 8, 0, 2, 0}, random).run().size(), 0U);
  for (const std::int64_t inputs : {0, 8}) {
    const Buffer y = ExpertMlp({1, 4, 3, inputs, 8 - inputs, 8, 2, 1}, random).run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.at(i), 0.0f);
  }
}

}  // namespace
}  // namespace hsm
