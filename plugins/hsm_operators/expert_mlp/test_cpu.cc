#include "hwy/targets.h"
#include "hsm_operators/expert_mlp/test_tensors.h"

namespace hsm {
namespace {

using testing::Buffer;
using Case = testing::ExpertMlpCase;

class ExpertMlp : public testing::ExpertMlpTensors {
 public:
  using ExpertMlpTensors::ExpertMlpTensors;

  Buffer run(const ParallelFor& parallel_for = {}) {
    Buffer y = output();
    expert_mlp(args(y), parallel_for);
    return y;
  }
};

void expect_equal(const Case& c, std::mt19937& random) {
  ExpertMlp op(c, random);
  testing::expect_close(op.run(), op.naive(), c.terms(), describe(c));
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 127, 129, 300};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 76, 100, 129, 260};
  return testing::random_expert_mlp(random, kLengths, kWidths);
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
    testing::fill(op.logits(), 1.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    testing::expect_numbers(op.run());
  }
}

TEST(ExpertMlp, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(10);
  for (const std::int64_t length : {1, 50}) {
    ExpertMlp op({1, length, 2, 20, 30, 40, 2, 1}, random);
    testing::fill(op.logits(), -1e4f);
    op.poison_expert(0);
    op.poison_expert(1);
    testing::expect_zero(op.run());
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
    testing::expect_zero(ExpertMlp({1, 4, 3, inputs, 8 - inputs, 8, 2, 1}, random).run());
  }
}

}  // namespace
}  // namespace hsm
