#include "hsm_operators/expert_matmul/cuda.gen.h"

#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using testing::DeviceMemory;

enum class Logits { kNormal, kTied, kMasked, kSaturated, kAllMasked };

struct Case {
  std::int64_t batch, length, heads, experts, inputs, outputs, active;
  DType type = DType::kFloat32;
  bool sum = false;
  Logits logits = Logits::kNormal;
  std::size_t misalignment = 0;
};

std::string name_of_tactic(int tactic) {
  return std::string(cuda::expert_matmul_tactics()[static_cast<std::size_t>(tactic)]);
}

std::string describe(const Case& c, int tactic) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " E=" + std::to_string(c.experts) + " inputs=" + std::to_string(c.inputs) +
         " outputs=" + std::to_string(c.outputs) + " k=" + std::to_string(c.active) + " " + name_of(c.type) +
         (c.sum ? " sum" : "") + " logits " + std::to_string(static_cast<int>(c.logits)) + ", " +
         name_of_tactic(tactic);
}

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
        x_(own.type, size(own.batch * own.length * (own.sum ? own.heads : 1) * own.inputs)),
        logits_(DType::kFloat32, size(own.batch * own.length * own.heads * own.experts)),
        weight_(own.type, size(own.heads * own.experts * own.inputs * own.outputs)) {
    x_.randomize(random);
    weight_.randomize(random);
    for (std::size_t i = 0; i < logits_.size(); ++i) logits_.set(i, random_logit(own.logits, random));
  }

  Buffer& logits() { return logits_; }

  // Puts NaN into the weights of an expert that no token may use.
  void poison_expert(std::int64_t expert) {
    const std::int64_t matrix = case_.inputs * case_.outputs;
    for (std::int64_t h = 0; h < case_.heads; ++h) {
      for (std::int64_t i = 0; i < matrix; ++i) {
        weight_.set(size((h * case_.experts + expert) * matrix + i), std::numeric_limits<float>::quiet_NaN());
      }
    }
  }

  Buffer naive() {
    Buffer y = output();
    ExpertMatMulArgs args = sizes();
    args.x = x_.data();
    args.logits = static_cast<const float*>(logits_.data());
    args.weight = weight_.data();
    args.y = y.data();
    (case_.sum ? expert_matmul_sum_naive : expert_matmul_naive)(args);
    return y;
  }

  Buffer run(int tactic, const cuda::Device& device = testing::device()) {
    const DeviceMemory x(x_, case_.misalignment);
    const DeviceMemory logits(logits_);
    const DeviceMemory weight(weight_, case_.misalignment);
    Buffer y = output();
    DeviceMemory device_y(y, case_.misalignment);
    ExpertMatMulArgs args = sizes();
    args.x = x.data();
    args.logits = logits.floats();
    args.weight = weight.data();
    args.y = device_y.data();
    EXPECT_TRUE(supports(tactic, device));
    const auto launch = case_.sum ? cuda::expert_matmul_sum_launch : cuda::expert_matmul_launch;
    testing::expect_launched(launch(args, tactic, device, nullptr, nullptr), describe(case_, tactic));
    device_y.fetch(y);
    return y;
  }

  bool supports(int tactic, const cuda::Device& device) const {
    return (case_.sum ? cuda::expert_matmul_sum_supports : cuda::expert_matmul_supports)(sizes(), tactic, device);
  }

  int default_tactic(const cuda::Device& device) const {
    return (case_.sum ? cuda::expert_matmul_sum_default_tactic : cuda::expert_matmul_default_tactic)(sizes(), device);
  }

 private:
  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

  Buffer output() const {
    Buffer y(case_.type, size(case_.batch * case_.length * (case_.sum ? 1 : case_.heads) * case_.outputs));
    return y.poison();
  }

  ExpertMatMulArgs sizes() const {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs,
            .heads = case_.heads,
            .experts = case_.experts,
            .outputs = case_.outputs,
            .active = case_.active,
            .type = case_.type};
  }

  Case case_;
  Buffer x_, logits_, weight_;
};

const int kTactics = static_cast<int>(cuda::expert_matmul_tactics().size());

// Calls body(tactic) for every tactic that the device has for this problem.
template <typename Body>
void with_tactics(const ExpertMatMul& op, const cuda::Device& device, Body body) {
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    if (op.supports(tactic, device)) body(tactic);
  }
}

void expect_equal(const Case& c, std::mt19937& random, const cuda::Device& device = testing::device()) {
  ExpertMatMul op(c, random);
  const Buffer expected = op.naive();
  const auto terms = static_cast<double>(c.inputs * c.active * (c.sum ? c.heads : 1));
  with_tactics(op, device, [&](int tactic) {
    testing::in_every_order([&](const std::string& order) {
      testing::expect_close(op.run(tactic, device), expected, terms, describe(c, tactic) + ", " + order);
    });
  });
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 67, 129};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 8, 16, 17, 31, 32, 40, 64, 65, 76, 100};
  const std::int64_t experts = testing::uniform(random, 1, 6);
  const DType type = testing::kTypes[testing::uniform(random, 0, 2)];
  return {.batch = testing::uniform(random, 1, 2),
          .length = kLengths[testing::uniform(random, 0, 8)],
          .heads = testing::uniform(random, 1, 3),
          .experts = experts,
          .inputs = kWidths[testing::uniform(random, 0, 12)],
          .outputs = kWidths[testing::uniform(random, 0, 12)],
          .active = testing::uniform(random, 1, static_cast<int>(experts)),
          .type = type,
          .sum = testing::uniform(random, 0, 1) == 1,
          .logits = static_cast<Logits>(testing::uniform(random, 0, 4)),
          .misalignment = size_of(type) * static_cast<std::size_t>(testing::uniform(random, 0, 2) / 2)};
}

TEST(CudaExpertMatMul, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 40; ++i) expect_equal(random_case(random), random);
}

// Whole vectors, so that copies are asynchronous and several chunks deep.
TEST(CudaExpertMatMul, AlignedShapesEqualTheDefinition) {
  std::mt19937 random(2);
  for (const DType type : testing::kTypes) {
    for (const bool sum : {false, true}) {
      expect_equal({1, 1, 2, 4, 128, 64, 2, type, sum}, random);
      expect_equal({1, 65, 2, 3, 40, 136, 2, type, sum}, random);
      expect_equal({1, 131, 1, 3, 264, 64, 1, type, sum}, random);
      expect_equal({1, 40, 1, 1, 160, 72, 1, type, sum}, random);
    }
  }
}

// An expert has no token, few or all of a tile.
TEST(CudaExpertMatMul, EveryNumberOfTokensOfAnExpertIsExact) {
  std::mt19937 random(3);
  for (std::int64_t tokens = 1; tokens <= 128; tokens += tokens < 20 ? 1 : 9) {
    expect_equal({1, tokens, 1, 1, 32, 64, 1, DType::kFloat16, tokens % 2 == 0}, random);
    expect_equal({1, tokens, 2, 7, 16, 32, 1, DType::kFloat32, tokens % 2 == 1}, random);
  }
}

TEST(CudaExpertMatMul, OldDevicesEqualTheDefinition) {
  std::mt19937 random(4);
  const cuda::Device old = testing::device(75);
  for (const DType type : testing::kTypes) expect_equal({1, 70, 2, 4, 64, 64, 2, type}, random, old);
}

TEST(CudaExpertMatMul, OrdersDoNotChangeTheBits) {
  std::mt19937 random(5);
  for (const bool sum : {false, true}) {
    for (const DType type : testing::kTypes) {
      const Case c{1, 70, 2, 4, 72, 40, 2, type, sum};
      ExpertMatMul op(c, random);
      with_tactics(op, testing::device(), [&](int tactic) {
        const Buffer first = op.run(tactic);
        testing::in_every_order([&](const std::string& order) {
          EXPECT_TRUE(op.run(tactic).same_bits(first)) << describe(c, tactic) << ", " << order;
        });
      });
    }
  }
}

TEST(CudaExpertMatMul, TiesGoToTheLowerIndex) {
  std::mt19937 random(6);
  for (const float zero : {0.0f, -0.0f}) {
    ExpertMatMul op({1, 50, 2, 5, 24, 40, 2, DType::kFloat16}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, i % 2 == 0 ? zero : 0.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    with_tactics(op, testing::device(), [&](int tactic) {
      const Buffer y = op.run(tactic);
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_FALSE(std::isnan(y.at(i))) << name_of_tactic(tactic);
    });
  }
}

TEST(CudaExpertMatMul, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(7);
  for (const bool sum : {false, true}) {
    ExpertMatMul op({1, 50, 3, 2, 24, 40, 2, DType::kBFloat16, sum}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, -1e4f);
    op.poison_expert(0);
    op.poison_expert(1);
    with_tactics(op, testing::device(), [&](int tactic) {
      const Buffer y = op.run(tactic);
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.at(i), 0.0f) << name_of_tactic(tactic);
    });
  }
}

TEST(CudaExpertMatMul, NaNLogitsAreSeen) {
  std::mt19937 random(8);
  for (const DType type : testing::kTypes) {
    ExpertMatMul op({1, 3, 1, 4, 16, 16, 2, type}, random);
    op.logits().set(4 + 3, std::numeric_limits<float>::quiet_NaN());  // the second token's last expert
    with_tactics(op, testing::device(), [&](int tactic) {
      const Buffer y = op.run(tactic);
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(std::isnan(y.at(i)), i / 16 == 1) << name_of_tactic(tactic);
      }
    });
  }
}

TEST(CudaExpertMatMul, EveryTacticHasItsKernel) {
  std::mt19937 random(9);
  std::set<std::string> kernels;
  for (const DType type : testing::kTypes) {
    std::set<std::string> of_type;
    for (const std::int64_t width : {std::int64_t{64}, std::int64_t{63}}) {
      ExpertMatMul op({1, 2, 1, 2, 32, width, 1, type}, random);
      testing::launched();
      with_tactics(op, testing::device(80), [&](int tactic) {
        op.run(tactic, testing::device(80));
        of_type.merge(testing::launched());
      });
    }
    // Two tiles of each product, two widths of gathering.
    EXPECT_TRUE(of_type.empty() || of_type.size() == (type == DType::kFloat32 ? 4U : 6U)) << name_of(type);
    kernels.merge(of_type);
  }
  EXPECT_TRUE(kernels.empty() || kernels.size() == 16U) << kernels.size();
}

TEST(CudaExpertMatMul, DefaultsFitTheShapeAndTheDevice) {
  const auto name = [](const Case& c, int sm) {
    std::mt19937 random(10);
    const cuda::Device device = testing::device(sm);
    const ExpertMatMul op(c, random);
    const int tactic = op.default_tactic(device);
    EXPECT_TRUE(op.supports(tactic, device));
    return name_of_tactic(tactic);
  };
  EXPECT_EQ(name({1, 1, 2, 4, 8, 8, 2, DType::kFloat16}, 86), "gather");
  EXPECT_EQ(name({1, 64, 2, 4, 8, 8, 2, DType::kFloat16}, 86), "mma64");
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat16}, 86), "mma128");
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat32}, 86), "simt128");
#ifdef HSM_SIMT
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat16}, 75), "mma64");
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kBFloat16}, 75), "simt64");
  EXPECT_EQ(name({1, 64, 2, 4, 8, 8, 2, DType::kFloat32}, 75), "simt64");
#endif
}

TEST(CudaExpertMatMul, RefusesWhatIsTooLarge) {
  const cuda::Device device = testing::device();
  ExpertMatMulArgs args{.batch = 1, .length = 4, .inputs = 8, .heads = 70000, .experts = 2, .outputs = 8, .active = 1};
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    EXPECT_FALSE(cuda::expert_matmul_supports(args, tactic, device));
    EXPECT_EQ(cuda::expert_matmul_launch(args, tactic, device, nullptr, nullptr), 1);
  }
  EXPECT_TRUE(cuda::expert_matmul_sum_supports(args, 4, device));
  EXPECT_FALSE(cuda::expert_matmul_sum_supports(args, 5, device));
  EXPECT_FALSE(cuda::expert_matmul_sum_supports(args, -1, device));
  args.inputs = std::int64_t{1} << 40;
  EXPECT_FALSE(cuda::expert_matmul_sum_supports(args, 4, device));
}

TEST(CudaExpertMatMul, EmptyInputsLaunchNothing) {
  std::mt19937 random(11);
  testing::launched();
  for (const bool sum : {false, true}) {
    ExpertMatMul op({0, 4, 2, 3, 8, 8, 2, DType::kFloat16, sum}, random);
    with_tactics(op, testing::device(), [&](int tactic) { op.run(tactic); });
  }
  EXPECT_TRUE(testing::launched().empty());
}

}  // namespace
}  // namespace hsm
