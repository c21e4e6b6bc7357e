#include "hsm_operators/expert_mlp/cuda.gen.h"
#include "hsm_operators/expert_mlp/test_tensors.h"
#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using testing::DeviceMemory;
using Case = testing::ExpertMlpCase;

std::string name_of_tactic(int tactic) {
  return std::string(cuda::expert_mlp_tactics()[static_cast<std::size_t>(tactic)]);
}

std::string describe(const Case& c, int tactic) { return testing::describe(c) + ", " + name_of_tactic(tactic); }

class ExpertMlp : public testing::ExpertMlpTensors {
 public:
  using ExpertMlpTensors::ExpertMlpTensors;

  Buffer run(int tactic, const cuda::Device& device = testing::device()) {
    const DeviceMemory x(x_, case_.misalignment);
    const DeviceMemory logits(logits_);
    const DeviceMemory up(up_, case_.misalignment);
    const DeviceMemory down(down_, case_.misalignment);
    Buffer y = output();
    DeviceMemory device_y(y, case_.misalignment);
    DeviceMemory workspace(cuda::expert_mlp_workspace(sizes(), tactic, device));
    ExpertMlpArgs args = sizes();
    args.x = x.data();
    args.logits = logits.floats();
    args.up = up.data();
    args.down = down.data();
    args.y = device_y.data();
    EXPECT_TRUE(supports(tactic, device));
    testing::expect_launched(cuda::expert_mlp_launch(args, tactic, device, workspace.data(), nullptr),
                             describe(case_, tactic));
    device_y.fetch(y);
    return y;
  }

  bool supports(int tactic, const cuda::Device& device) const {
    return cuda::expert_mlp_supports(sizes(), tactic, device);
  }

  int default_tactic(const cuda::Device& device) const { return cuda::expert_mlp_default_tactic(sizes(), device); }
};

const int kTactics = static_cast<int>(cuda::expert_mlp_tactics().size());

// Calls body(tactic) for every tactic that the device has for this problem.
template <typename Body>
void with_tactics(const ExpertMlp& op, const cuda::Device& device, Body body) {
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    if (op.supports(tactic, device)) body(tactic);
  }
}

void expect_equal(const Case& c, std::mt19937& random, const cuda::Device& device = testing::device()) {
  ExpertMlp op(c, random);
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
  Case c = testing::random_expert_mlp(random, kLengths, kWidths);
  // A third of the tensors are not aligned: others take other copies.
  if (testing::uniform(random, 0, 2) != 2) c.misalignment = 0;
  return c;
}

TEST(CudaExpertMlp, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 40; ++i) expect_equal(random_case(random), random);
}

// Whole vectors, so that copies are asynchronous and several chunks deep.
TEST(CudaExpertMlp, AlignedShapesEqualTheDefinition) {
  std::mt19937 random(2);
  for (const DType type : testing::kTypes) {
    expect_equal({1, 1, 4, 128, 64, 72, 2, 0, type}, random);
    expect_equal({1, 65, 3, 40, 136, 64, 2, 1, type}, random);
    expect_equal({1, 131, 3, 264, 64, 40, 1, 2, type}, random);
    expect_equal({1, 40, 1, 160, 72, 136, 1, 0, type}, random);
  }
}

// More experts than a warp has lanes, and more choices than one step of the sorting takes.
TEST(CudaExpertMlp, ManyExpertsEqualTheDefinition) {
  std::mt19937 random(3);
  expect_equal({1, 90, 70, 16, 8, 16, 5, 1, DType::kFloat16}, random);
  expect_equal({2, 150, 155, 8, 8, 8, 4, 0, DType::kFloat32}, random);
}

// An expert has no token, few or all, and more than one tile.
TEST(CudaExpertMlp, EveryNumberOfTokensOfAnExpertIsExact) {
  std::mt19937 random(4);
  for (std::int64_t tokens = 1; tokens <= 200; tokens += tokens < 20 ? 1 : 19) {
    expect_equal({1, tokens, 1, 32, 64, 24, 1, 0, DType::kFloat16}, random);
    expect_equal({1, tokens, 7, 16, 32, 8, 1, 1, DType::kFloat32}, random);
  }
}

// More choices than are computed at a time.
TEST(CudaExpertMlp, LongSequencesEqualTheDefinition) {
  std::mt19937 random(5);
  ExpertMlp op({1, 5600, 3, 8, 8, 8, 3, 0, DType::kBFloat16}, random);
  const Buffer expected = op.naive();
  with_tactics(op, testing::device(),
               [&](int tactic) { testing::expect_close(op.run(tactic), expected, 32, name_of_tactic(tactic)); });
}

TEST(CudaExpertMlp, OldDevicesEqualTheDefinition) {
  std::mt19937 random(6);
  const cuda::Device old = testing::device(75);
  for (const DType type : testing::kTypes) expect_equal({1, 70, 4, 64, 64, 64, 2, 1, type}, random, old);
}

TEST(CudaExpertMlp, OrdersDoNotChangeTheBits) {
  std::mt19937 random(7);
  for (const DType type : testing::kTypes) {
    const Case c{1, 70, 4, 72, 40, 48, 2, 2, type};
    ExpertMlp op(c, random);
    with_tactics(op, testing::device(), [&](int tactic) {
      const Buffer first = op.run(tactic);
      testing::in_every_order([&](const std::string& order) {
        EXPECT_TRUE(op.run(tactic).same_bits(first)) << describe(c, tactic) << ", " << order;
      });
    });
  }
}

TEST(CudaExpertMlp, TiesGoToTheLowerIndex) {
  std::mt19937 random(8);
  for (const float zero : {0.0f, -0.0f}) {
    ExpertMlp op({1, 50, 5, 24, 40, 16, 2, 0, DType::kFloat16}, random);
    for (std::size_t i = 0; i < op.logits().size(); ++i) op.logits().set(i, i % 2 == 0 ? zero : 0.0f);
    for (std::int64_t expert = 2; expert < 5; ++expert) op.poison_expert(expert);
    with_tactics(op, testing::device(),
                 [&](int tactic) { testing::expect_numbers(op.run(tactic), name_of_tactic(tactic)); });
  }
}

TEST(CudaExpertMlp, ExpertsThatAreSwitchedOffAreNotRead) {
  std::mt19937 random(9);
  ExpertMlp op({1, 50, 2, 24, 40, 16, 2, 1, DType::kBFloat16}, random);
  testing::fill(op.logits(), -1e4f);
  op.poison_expert(0);
  op.poison_expert(1);
  with_tactics(op, testing::device(),
               [&](int tactic) { testing::expect_zero(op.run(tactic), name_of_tactic(tactic)); });
}

TEST(CudaExpertMlp, NotANumberIsSeen) {
  std::mt19937 random(10);
  for (const DType type : testing::kTypes) {
    for (const std::int64_t activation : {0, 1, 2}) {
      ExpertMlp op({1, 3, 4, 16, 8, 16, 2, activation, type}, random);
      op.logits().set(4 + 3, std::numeric_limits<float>::quiet_NaN());  // the second token's last expert
      op.x().set(2 * 16 + 5, std::numeric_limits<float>::quiet_NaN());  // the third token
      with_tactics(op, testing::device(), [&](int tactic) {
        const Buffer y = op.run(tactic);
        for (std::size_t i = 0; i < y.size(); ++i) {
          ASSERT_EQ(std::isnan(y.at(i)), i >= 16) << name_of_tactic(tactic);
        }
      });
    }
  }
}

TEST(CudaExpertMlp, EveryTacticHasItsKernels) {
  std::mt19937 random(11);
  std::set<std::string> kernels;
  for (const DType type : testing::kTypes) {
    std::set<std::string> of_type;
    for (const std::int64_t width : {64, 63}) {
      ExpertMlp op({1, 2, 2, 32, width, width, 1, 0, type}, random);
      testing::launched();
      with_tactics(op, testing::device(80), [&](int tactic) {
        op.run(tactic, testing::device(80));
        of_type.merge(testing::launched());
      });
    }
    // Two that find the choices, a tile of each product, one that adds, two of gathering in two widths.
    EXPECT_TRUE(of_type.empty() || of_type.size() == (type == DType::kFloat32 ? 8U : 9U)) << of_type.size();
    kernels.merge(of_type);
  }
  EXPECT_TRUE(kernels.empty() || kernels.size() == 22U) << kernels.size();
}

TEST(CudaExpertMlp, DefaultsFitTheShapeAndTheDevice) {
  const auto name = [](const Case& c, int sm) {
    std::mt19937 random(12);
    const cuda::Device device = testing::device(sm);
    const ExpertMlp op(c, random);
    const int tactic = op.default_tactic(device);
    EXPECT_TRUE(op.supports(tactic, device));
    return name_of_tactic(tactic);
  };
  EXPECT_EQ(name({1, 1, 4, 8, 8, 8, 2, 0, DType::kFloat16}, 86), "gather");
  EXPECT_EQ(name({1, 64, 4, 8, 8, 8, 2, 0, DType::kFloat16}, 86), "mma");
  EXPECT_EQ(name({1, 64, 4, 8, 8, 8, 2, 0, DType::kFloat32}, 86), "simt");
#ifdef HSM_SIMT
  EXPECT_EQ(name({1, 64, 4, 8, 8, 8, 2, 0, DType::kBFloat16}, 75), "simt");
#endif
}

TEST(CudaExpertMlp, RefusesWhatIsTooLarge) {
  const cuda::Device device = testing::device();
  ExpertMlpArgs args{.batch = 1, .length = 4, .inputs = 8, .experts = 2, .hidden = 8, .outputs = 8, .active = 1};
  EXPECT_TRUE(cuda::expert_mlp_supports(args, 2, device));
  EXPECT_FALSE(cuda::expert_mlp_supports(args, 3, device));
  EXPECT_FALSE(cuda::expert_mlp_supports(args, -1, device));
  args.outputs = std::int64_t{1} << 30;
  EXPECT_FALSE(cuda::expert_mlp_supports(args, 1, device));
  EXPECT_EQ(cuda::expert_mlp_launch(args, 1, device, nullptr, nullptr), 1);
  args.inputs = std::int64_t{1} << 40;
  for (int tactic = 0; tactic < kTactics; ++tactic) EXPECT_FALSE(cuda::expert_mlp_supports(args, tactic, device));
}

// The workspace does not grow with the tokens beyond those that are computed at a time.
TEST(CudaExpertMlp, TheWorkspaceIsBounded) {
  const cuda::Device device = testing::device();
  ExpertMlpArgs args{
      .batch = 1, .length = 1024, .inputs = 412, .experts = 155, .hidden = 128, .outputs = 412, .active = 4};
  const std::size_t once = cuda::expert_mlp_workspace(args, 1, device);
  EXPECT_LT(once, std::size_t{1024} * 4 * (128 + 416 + 3) * 4 + 4096);
  args.length = 1 << 20;
  EXPECT_LT(cuda::expert_mlp_workspace(args, 1, device), 5 * once);
}

TEST(CudaExpertMlp, EmptySizesAreRight) {
  std::mt19937 random(13);
  testing::launched();
  for (const Case& c : {Case{0, 4, 3, 8, 8, 8, 2, 0}, Case{1, 4, 3, 8, 8, 0, 2, 0}}) {
    ExpertMlp op(c, random);
    with_tactics(op, testing::device(), [&](int tactic) { op.run(tactic); });
  }
  EXPECT_TRUE(testing::launched().empty());
  for (const std::int64_t inputs : {0, 8}) {
    ExpertMlp op({1, 4, 3, inputs, 8 - inputs, 8, 2, 1}, random);
    with_tactics(op, testing::device(), [&](int tactic) { testing::expect_zero(op.run(tactic)); });
  }
}

}  // namespace
}  // namespace hsm
