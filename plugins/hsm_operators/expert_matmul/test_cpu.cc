#include "hwy/targets.h"
#include "hsm_operators/expert_matmul/test_tensors.h"

namespace hsm {
namespace {

using testing::Buffer;
using Case = testing::ExpertMatMulCase;

class ExpertMatMul : public testing::ExpertMatMulTensors {
 public:
  using ExpertMatMulTensors::ExpertMatMulTensors;

  Buffer run(const ParallelFor& parallel_for = {}, const float* packed = nullptr) {
    Buffer y = output();
    ExpertMatMulArgs own = args(y);
    own.packed = packed;
    (case_.sum ? expert_matmul_sum : expert_matmul)(own, parallel_for);
    return y;
  }

  Buffer run_packed() {
    Buffer y = output();
    const Packed packed = pack_constant(args(y));
    return run({}, packed.get());
  }
};

void expect_equal(const Case& c, std::mt19937& random) {
  ExpertMatMul op(c, random);
  const Buffer expected = op.naive();
  testing::expect_close(op.run(), expected, c.terms(), describe(c));
  testing::expect_close(op.run_packed(), expected, c.terms(), "packed " + describe(c));
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 127, 129, 300};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 76, 100, 129, 260};
  return testing::random_expert_matmul(random, kLengths, kWidths);
}

TEST(ExpertMatMul, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 120; ++i) expect_equal(random_case(random), random);
}

TEST(ExpertMatMul, WideModelsEqualTheDefinition) {
  std::mt19937 random(2);
  for (const DType type : testing::kTypes) {
    expect_equal({1, 40, 2, 5, 1030, 76, 2, type, false}, random);
    expect_equal({1, 40, 2, 5, 76, 1030, 2, type, true}, random);
  }
}

TEST(ExpertMatMul, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 15; ++i) expect_equal(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(ExpertMatMul, EveryNumberOfTokensOfAnExpertIsExact) {
  std::mt19937 random(4);
  for (std::int64_t tokens = 1; tokens <= 76; ++tokens) {
    expect_equal({1, tokens, 1, 1, 40, 76, 1, DType::kFloat32, tokens % 2 == 0}, random);
  }
}

TEST(ExpertMatMul, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(5);
  testing::Pool pool(4);
  for (const bool sum : {false, true}) {
    for (const std::int64_t length : {1, 5, 200, 700}) {
      ExpertMatMul op({1, length, 2, 4, 50, 300, 2, DType::kFloat32, sum}, random);
      EXPECT_TRUE(op.run().same_bits(op.run(pool.parallel_for())));
    }
  }
}

TEST(ExpertMatMul, PackingDoesNotChangeTheBits) {
  std::mt19937 random(6);
  for (const DType type : testing::kTypes) {
    ExpertMatMul op({2, 90, 2, 4, 300, 77, 2, type}, random);
    EXPECT_TRUE(op.run().same_bits(op.run_packed()));
  }
}

TEST(ExpertMatMul, TiesGoToTheLowerIndex) {
  std::mt19937 random(7);
  for (const std::int64_t length : {1, 50}) {
    ExpertMatMul op({1, length, 2, 5, 20, 30, 2}, random);
    testing::fill(op.logits(), 1.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    testing::expect_numbers(op.run());
  }
}

TEST(ExpertMatMul, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(8);
  for (const std::int64_t length : {1, 50}) {
    ExpertMatMul op({1, length, 3, 1, 20, 30, 1}, random);
    testing::fill(op.logits(), -1e4f);
    op.poison_expert(0);
    testing::expect_zero(op.run());
  }
}

TEST(ExpertMatMul, EmptyInputsAreLeftAlone) {
  std::mt19937 random(9);
  for (const bool sum : {false, true}) {
    ExpertMatMul op({0, 4, 2, 3, 8, 8, 2, DType::kFloat32, sum}, random);
    EXPECT_EQ(op.run().size(), 0U);
  }
}

}  // namespace
}  // namespace hsm
