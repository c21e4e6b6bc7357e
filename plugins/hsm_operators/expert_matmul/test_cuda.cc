#include "hsm_operators/expert_matmul/cuda.gen.h"
#include "hsm_operators/expert_matmul/test_tensors.h"
#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using testing::DeviceMemory;
using Case = testing::ExpertMatMulCase;

std::string name_of_tactic(int tactic) {
  return std::string(cuda::expert_matmul_tactics()[static_cast<std::size_t>(tactic)]);
}

std::string describe(const Case& c, int tactic) { return testing::describe(c) + ", " + name_of_tactic(tactic); }

class ExpertMatMul : public testing::ExpertMatMulTensors {
 public:
  using ExpertMatMulTensors::ExpertMatMulTensors;

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
  with_tactics(op, device, [&](int tactic) {
    testing::in_every_order([&](const std::string& order) {
      testing::expect_close(op.run(tactic, device), expected, c.terms(), describe(c, tactic) + ", " + order);
    });
  });
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kLengths[] = {1, 2, 3, 5, 13, 31, 64, 67, 129};
  constexpr std::int64_t kWidths[] = {1, 2, 7, 8, 16, 17, 31, 32, 40, 64, 65, 76, 100};
  Case c = testing::random_expert_matmul(random, kLengths, kWidths);
  // A third of the tensors are not aligned: others take other copies.
  if (testing::uniform(random, 0, 2) != 2) c.misalignment = 0;
  return c;
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
    with_tactics(op, testing::device(),
                 [&](int tactic) { testing::expect_numbers(op.run(tactic), name_of_tactic(tactic)); });
  }
}

TEST(CudaExpertMatMul, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(7);
  for (const bool sum : {false, true}) {
    ExpertMatMul op({1, 50, 3, 2, 24, 40, 2, DType::kBFloat16, sum}, random);
    testing::fill(op.logits(), -1e4f);
    op.poison_expert(0);
    op.poison_expert(1);
    with_tactics(op, testing::device(),
                 [&](int tactic) { testing::expect_zero(op.run(tactic), name_of_tactic(tactic)); });
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
  // Of the sizes of GPUs that exist, and the shim's; what is expected does not depend on the device that runs the test.
  constexpr int kMultiprocessors[] = {3, 16, 20, 40, 46, 72, 82, 108, 128, 132, 148, 160};
  const auto name = [](const Case& c, int sm, int multiprocessors = 3) {
    std::mt19937 random(10);
    const cuda::Device device{.sm = sm,
                              .multiprocessors = multiprocessors,
                              .shared_memory_per_block = (sm < 80 ? 64 : 99) * std::size_t{1024}};
    const ExpertMatMul op(c, random);
    const int tactic = op.default_tactic(device);
    EXPECT_TRUE(op.supports(tactic, device));
    return name_of_tactic(tactic);
  };
  EXPECT_EQ(name({1, 1, 2, 4, 8, 8, 2, DType::kFloat16}, 86), "gather");
  for (const int count : kMultiprocessors) {
    // 900 tokens and two heads are 16 large tiles.
    const bool large = count <= 16;
    EXPECT_EQ(name({1, 64, 2, 4, 8, 8, 2, DType::kFloat16}, 86, count), "mma64");
    // A step of eight rows: 32 blocks that gather, or four tiles that are nearly empty.
    EXPECT_EQ(name({8, 1, 4, 4, 8, 8, 2, DType::kFloat16}, 86, count), count >= 32  ? "gather"
                                                                       : count <= 4 ? "mma128"
                                                                                    : "mma64")
        << count;
    EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat16}, 86, count), large ? "mma128" : "mma64") << count;
    EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat32}, 86, count), large ? "simt128" : "simt64") << count;
  }
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kFloat16}, 75), "mma64");
  EXPECT_EQ(name({1, 900, 2, 4, 8, 8, 2, DType::kBFloat16}, 75), "simt64");
  EXPECT_EQ(name({1, 64, 2, 4, 8, 8, 2, DType::kFloat32}, 75), "simt64");
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
