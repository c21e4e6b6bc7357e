#include "hsm_operators/expert_matmul/args.gen.h"

#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

enum class Logits { kNormal, kTied, kMasked, kSaturated, kAllMasked };

struct Case {
  std::int64_t batch, length, heads, experts, inputs, outputs, active;
  DType type = DType::kFloat32;
  bool sum = false;
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

class ExpertMatMul {
 public:
  ExpertMatMul(const Case& own, std::mt19937& random)
      : case_(own),
        x_(own.type, size(own.batch * own.length * (own.sum ? own.heads : 1) * own.inputs), own.misalignment),
        logits_(DType::kFloat32, size(own.batch * own.length * own.heads * own.experts)),
        weight_(own.type, size(own.heads * own.experts * own.inputs * own.outputs), own.misalignment) {
    x_.randomize(random);
    weight_.randomize(random);
    for (std::size_t i = 0; i < logits_.size(); ++i) logits_.set(i, random_logit(own.logits, random));
  }

  Buffer naive() {
    Buffer y = output();
    (case_.sum ? expert_matmul_sum_naive : expert_matmul_naive)(args(y));
    return y;
  }

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

  // Puts NaN into the weights of experts that no token may use.
  void poison_expert(std::int64_t expert) {
    const std::int64_t matrix = case_.inputs * case_.outputs;
    for (std::int64_t h = 0; h < case_.heads; ++h) {
      for (std::int64_t i = 0; i < matrix; ++i) {
        weight_.set(size((h * case_.experts + expert) * matrix + i), std::numeric_limits<float>::quiet_NaN());
      }
    }
  }

  Buffer& logits() { return logits_; }

 private:
  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

  Buffer output() const {
    Buffer y(case_.type, size(case_.batch * case_.length * (case_.sum ? 1 : case_.heads) * case_.outputs),
             case_.misalignment);
    y.poison();
    return y;
  }

  ExpertMatMulArgs args(Buffer& y) {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs,
            .heads = case_.heads,
            .experts = case_.experts,
            .outputs = case_.outputs,
            .active = case_.active,
            .type = case_.type,
            .x = x_.data(),
            .logits = static_cast<const float*>(static_cast<const void*>(logits_.data())),
            .weight = weight_.data(),
            .y = y.data()};
  }

  Case case_;
  Buffer x_, logits_, weight_;
};

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 127, 129, 300};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 76, 100, 129, 260};
  const std::int64_t experts = testing::uniform(random, 1, 6);
  const DType type = testing::kTypes[testing::uniform(random, 0, 2)];
  return {.batch = testing::uniform(random, 1, 2),
          .length = kLengths[testing::uniform(random, 0, 9)],
          .heads = testing::uniform(random, 1, 3),
          .experts = experts,
          .inputs = kWidths[testing::uniform(random, 0, 15)],
          .outputs = kWidths[testing::uniform(random, 0, 15)],
          .active = testing::uniform(random, 1, static_cast<int>(experts)),
          .type = type,
          .sum = testing::uniform(random, 0, 1) == 1,
          .logits = static_cast<Logits>(testing::uniform(random, 0, 4)),
          .misalignment = size_of(type) * static_cast<std::size_t>(testing::uniform(random, 0, 3))};
}

std::string describe(const Case& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " E=" + std::to_string(c.experts) + " inputs=" + std::to_string(c.inputs) +
         " outputs=" + std::to_string(c.outputs) + " k=" + std::to_string(c.active) + " " + name_of(c.type) +
         (c.sum ? " sum" : "") + " logits " + std::to_string(static_cast<int>(c.logits));
}

void expect_equal(const Case& c, std::mt19937& random) {
  ExpertMatMul op(c, random);
  const Buffer expected = op.naive();
  const auto sum = static_cast<double>(c.inputs * c.active * (c.sum ? c.heads : 1));
  testing::expect_close(op.run(), expected, sum, describe(c));
  testing::expect_close(op.run_packed(), expected, sum, "packed " + describe(c));
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
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, 1.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    const Buffer y = op.run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_FALSE(std::isnan(y.at(i)));
  }
}

TEST(ExpertMatMul, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(8);
  for (const std::int64_t length : {1, 50}) {
    ExpertMatMul op({1, length, 3, 1, 20, 30, 1}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, -1e4f);
    op.poison_expert(0);
    const Buffer y = op.run();
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.at(i), 0.0f);
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
