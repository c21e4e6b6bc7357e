#include <cmath>
#include <random>
#include <string>

#include "hwy/targets.h"
#include "hsm_operators/common/test_experts.h"
#include "hsm_operators/quantized_expert_matmul/args.gen.h"

namespace hsm::testing {
namespace {

struct Case {
  std::int64_t batch, length, heads, experts, groups, group_bytes, per_byte, outputs, active;
  DType type = DType::kFloat32;
  bool sum = false;
  Logits logits = Logits::kNormal;

  std::int64_t inputs() const { return groups * group_bytes * per_byte; }
  // How many numbers an element of the result adds.
  double terms() const { return static_cast<double>(inputs() * active * (sum ? heads : 1)); }
};

std::string describe(const Case& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " E=" + std::to_string(c.experts) + " G=" + std::to_string(c.groups) + " R=" + std::to_string(c.group_bytes) +
         " per byte=" + std::to_string(c.per_byte) + " outputs=" + std::to_string(c.outputs) +
         " k=" + std::to_string(c.active) + " " + name_of(c.type) + (c.sum ? " sum" : "") + " logits " +
         std::to_string(static_cast<int>(c.logits));
}

class QuantizedExpertMatMul {
 public:
  QuantizedExpertMatMul(const Case& own, std::mt19937& random)
      : case_(own),
        x_(own.type, to_size(own.batch * own.length * (own.sum ? own.heads : 1) * own.inputs())),
        logits_(draw_logits(to_size(own.batch * own.length * own.heads * own.experts), own.logits, random)),
        weight_(DType::kUInt8, to_size(own.heads * own.experts * own.groups * own.group_bytes * own.outputs)),
        scales_(DType::kFloat32, to_size(own.heads * own.experts * own.groups * own.outputs)) {
    x_.randomize(random);
    // The products are then of the size that the tolerance is for.
    scales_.randomize(random, own.per_byte == 1 ? 1.0f / 128 : 1.0f / 8);
    for (std::size_t i = 0; i < weight_.size(); ++i) weight_.set(i, static_cast<float>(random() % 256));
  }

  Buffer naive() {
    Buffer y = output();
    (case_.sum ? quantized_expert_matmul_sum_naive : quantized_expert_matmul_naive)(args(y));
    return y;
  }

  Buffer run(const ParallelFor& parallel_for = {}) {
    Buffer y = output();
    (case_.sum ? quantized_expert_matmul_sum : quantized_expert_matmul)(args(y), parallel_for);
    return y;
  }

 private:
  Buffer output() const {
    Buffer y(case_.type, to_size(case_.batch * case_.length * (case_.sum ? 1 : case_.heads) * case_.outputs));
    return y.poison();
  }

  QuantizedExpertMatMulArgs args(Buffer& y) const {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs(),
            .heads = case_.heads,
            .experts = case_.experts,
            .groups = case_.groups,
            .group_bytes = case_.group_bytes,
            .outputs = case_.outputs,
            .active = case_.active,
            .per_byte = case_.per_byte,
            .type = case_.type,
            .x = x_.data(),
            .logits = static_cast<const float*>(logits_.data()),
            .weight = static_cast<const std::uint8_t*>(weight_.data()),
            .scales = static_cast<const float*>(scales_.data()),
            .y = y.data()};
  }

  Case case_;
  Buffer x_, logits_, weight_, scales_;
};

void expect_equal(const Case& c, std::mt19937& random) {
  QuantizedExpertMatMul op(c, random);
  expect_close(op.run(), op.naive(), c.terms(), describe(c));
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 31, 64, 129, 300};
  constexpr std::int64_t kBytes[] = {1, 2, 7, 16, 31, 64, 130};
  constexpr std::int64_t kOutputs[] = {1, 2, 7, 15, 16, 17, 33, 64, 65, 100, 129, 260};
  const std::int64_t experts = uniform(random, 1, 6);
  return {.batch = uniform(random, 1, 2),
          .length = any_of<std::int64_t>(kLengths, random),
          .heads = uniform(random, 1, 3),
          .experts = experts,
          .groups = uniform(random, 1, 3),
          .group_bytes = any_of<std::int64_t>(kBytes, random),
          .per_byte = uniform(random, 1, 2),
          .outputs = any_of<std::int64_t>(kOutputs, random),
          .active = uniform(random, 1, static_cast<int>(experts)),
          .type = kTypes[uniform(random, 0, 2)],
          .sum = uniform(random, 0, 1) == 1,
          .logits = any_logits(random)};
}

TEST(QuantizedExpertMatMul, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 100; ++i) expect_equal(random_case(random), random);
}

TEST(QuantizedExpertMatMul, WideModelsEqualTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t length : {1, 60}) {
    expect_equal({1, length, 2, 3, 9, 64, 2, 76, 2}, random);
    expect_equal({1, length, 2, 3, 1, 76, 1, 1030, 2, DType::kFloat32, true}, random);
  }
}

TEST(QuantizedExpertMatMul, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 15; ++i) expect_equal(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(QuantizedExpertMatMul, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(4);
  Pool pool(4);
  for (const bool sum : {false, true}) {
    for (const std::int64_t length : {1, 200}) {
      QuantizedExpertMatMul op({1, length, 2, 4, 2, 25, 2, 300, 2, DType::kFloat32, sum}, random);
      EXPECT_TRUE(op.run().same_bits(op.run(pool.parallel_for())));
    }
  }
}

TEST(QuantizedExpertMatMul, EmptyInputsAreLeftAlone) {
  std::mt19937 random(5);
  for (const bool sum : {false, true}) {
    QuantizedExpertMatMul op({0, 4, 2, 3, 1, 8, 1, 8, 2, DType::kFloat32, sum}, random);
    EXPECT_EQ(op.run().size(), 0U);
  }
}

}  // namespace
}  // namespace hsm::testing
