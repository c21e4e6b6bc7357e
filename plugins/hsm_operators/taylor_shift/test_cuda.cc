#include "hsm_operators/taylor_shift/cuda.gen.h"

#include <gmock/gmock.h>

#include <cstdint>
#include <optional>

#include "hsm_operators/taylor_shift/taylor_call.h"
#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using ::testing::AllOf;
using testing::Buffer;
using ::testing::Contains;
using testing::DeviceMemory;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

enum Tactic { kDirect, kEfficient, kDirectTensor, kEfficientTensor, kTactics };

// For what launchers decide without launching.
constexpr cuda::Device kTuring{.sm = 75, .multiprocessors = 40, .shared_memory_per_block = 64 * 1024};
constexpr cuda::Device kAmpere{.sm = 86, .multiprocessors = 82, .shared_memory_per_block = 99 * 1024};

struct Case {
  std::int64_t batch, length, heads, dim;
  DType type = DType::kFloat32;
  bool normalize = true, output_norm = false, masked = false;
  std::size_t misalignment = 0;  // elements
  float temperature = 1.0f;
  std::int64_t value_dim = dim;
};

std::string describe(const Case& c, int tactic) {
  return std::string(cuda::taylor_shift_tactics()[static_cast<std::size_t>(tactic)]) + " B=" + std::to_string(c.batch) +
         " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) + " d=" + std::to_string(c.dim) +
         " e=" + std::to_string(c.value_dim) + " " + name_of(c.type) + (c.normalize ? " normalize" : "") +
         (c.output_norm ? " output_norm" : "") + (c.masked ? " masked" : "") +
         (c.misalignment > 0 ? " misaligned" : "");
}

class TaylorShift {
 public:
  TaylorShift(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, count(own.dim)),
        k_(own.type, count(own.dim)),
        v_(own.type, count(own.value_dim)),
        temperature_(own.type, static_cast<std::size_t>(own.heads)) {
    // Without normalisation scores grow with d, so the inputs shrink.
    const float scale = own.normalize ? 1.0f : 0.3f;
    q_.randomize(random, scale);
    k_.randomize(random, scale);
    v_.randomize(random);
    for (std::size_t h = 0; h < temperature_.size(); ++h) {
      temperature_.set(h, own.temperature * (0.5f + 0.25f * static_cast<float>(h % 7)));
    }
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(own.masked ? testing::uniform(random, 1, static_cast<int>(own.length)) : own.length);
    }
    poison_padding();
  }

  // Returns y, or nothing if the launch failed, in which case the test has.
  std::optional<Buffer> run(int tactic, const cuda::Device& device) {
    const std::size_t offset = case_.misalignment * size_of(case_.type);
    const DeviceMemory q(q_, offset), k(k_, offset), v(v_, offset), temperature(temperature_), lengths(lengths_);
    DeviceMemory y(v.bytes(), offset);
    TaylorShiftArgs args = arguments(q.data(), k.data(), v.data(), temperature.data(), lengths.int64s(), y.data());
    const std::size_t bytes = cuda::taylor_shift_workspace(args, tactic, device);
    DeviceMemory workspace(bytes);
    testing::launched();
    testing::expect_launched(cuda::taylor_shift_launch(args, tactic, device, workspace.data(), nullptr),
                             describe(case_, tactic));
    if (::testing::Test::HasFatalFailure()) return std::nullopt;
    Buffer result(case_.type, v_.size());
    y.fetch(result);
    return valid(std::move(result));
  }

  // The efficient form, `group` heads at a time.
  std::optional<Buffer> run_in_groups(std::int64_t group) {
    const DeviceMemory q(q_), k(k_), v(v_), temperature(temperature_);
    DeviceMemory y(v.bytes());
    cuda::TaylorCall call{.q = q.data(), .k = k.data(), .v = v.data(), .temperature = temperature.data()};
    call.y = y.data();
    call.length = case_.length;
    call.heads = case_.heads;
    call.dim = static_cast<int>(case_.dim);
    call.value_dim = static_cast<int>(case_.value_dim);
    call.features = static_cast<int>(taylor_features(case_.dim));
    const std::int64_t length = cuda::divide_up(case_.length, cuda::kQueryTile) * cuda::kQueryTile;
    const cuda::SumsPlan plan{.segments = 1, .segment_length = length, .group = group};
    DeviceMemory workspace(static_cast<std::size_t>(group * cuda::slot_floats(case_.dim, case_.value_dim)) *
                           sizeof(float));
    testing::expect_launched(cuda::launch_with_sums(call, case_.batch * case_.heads, plan, case_.type,
                                                    cuda::TaylorUnit::kSimt, workspace.data(), nullptr),
                             "groups of heads");
    if (::testing::Test::HasFatalFailure()) return std::nullopt;
    Buffer result(case_.type, v_.size());
    y.fetch(result);
    return result;
  }

  Buffer naive() {
    Buffer y(case_.type, v_.size());
    y.poison();
    taylor_shift_naive(arguments(q_.data(), k_.data(), v_.data(), temperature_.data(), lengths_.data(), y.data()));
    return valid(std::move(y));
  }

  // Tensor cores take weights in T: y is a mean of v with them, so their roundings move it by no more than one of the
  // largest v; by sums many more are rounded, independently of each other.
  double operand_rounding(int tactic) const {
    if (tactic != kDirectTensor && tactic != kEfficientTensor) return 0;
    const auto scale = std::sqrt(static_cast<double>(case_.length) / static_cast<double>(case_.dim));
    return testing::epsilon(case_.type) * testing::largest(v_) * (case_.output_norm ? scale : 1.0);
  }

  TaylorShiftArgs arguments() { return arguments(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr); }

 private:
  TaylorShiftArgs arguments(const void* q, const void* k, const void* v, const void* temperature,
                            const std::int64_t* lengths, void* y) const {
    return {.batch = case_.batch,
            .length = case_.length,
            .heads = case_.heads,
            .dim = case_.dim,
            .value_dim = case_.value_dim,
            .normalize = case_.normalize,
            .output_norm = case_.output_norm,
            .type = case_.type,
            .q = q,
            .k = k,
            .v = v,
            .temperature = temperature,
            .lengths = case_.masked ? lengths : nullptr,
            .y = y};
  }

  // Padding is never read.
  void poison_padding() {
    for (Buffer* buffer : {&q_, &k_, &v_}) {
      for_padding(*buffer, [&](std::size_t i) { buffer->set(i, std::numeric_limits<float>::quiet_NaN()); });
    }
  }

  // What comes out as padding is unspecified, but finite; zero in the comparison.
  Buffer valid(Buffer y) const {
    for_padding(y, [&](std::size_t i) { y.set(i, 0.0f); });
    return y;
  }

  std::size_t count(std::int64_t width) const {
    return static_cast<std::size_t>(case_.batch * case_.length * case_.heads * width);
  }

  template <typename Body>
  void for_padding(const Buffer& buffer, Body body) const {
    const std::int64_t row = static_cast<std::int64_t>(buffer.size()) / (case_.batch * case_.length);
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      for (std::int64_t i = lengths_[static_cast<std::size_t>(b)] * row; i < case_.length * row; ++i) {
        body(static_cast<std::size_t>(b * case_.length * row + i));
      }
    }
  }

  Case case_;
  Buffer q_, k_, v_, temperature_;
  std::vector<std::int64_t> lengths_;
};

// Runs a case with every tactic that supports it, in one order of threads.
void expect_definition(const Case& c, std::mt19937& random, const cuda::Device& device = testing::device(),
                       const std::string& order = "") {
  TaylorShift op(c, random);
  const Buffer expected = op.naive();
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    if (!cuda::taylor_shift_supports(op.arguments(), tactic, device)) continue;
    const std::optional<Buffer> actual = op.run(tactic, device);
    ASSERT_TRUE(actual.has_value());
    testing::expect_close(*actual, expected, static_cast<double>(c.length + c.dim * c.dim),
                          describe(c, tactic) + " " + order, op.operand_rounding(tactic));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t dims[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40};
  constexpr std::int64_t lengths[] = {1, 2, 3, 7, 16, 31, 33, 64, 65, 67};
  return {.batch = testing::uniform(random, 1, 2),
          .length = lengths[testing::uniform(random, 0, std::size(lengths) - 1)],
          .heads = testing::uniform(random, 1, 2),
          .dim = dims[testing::uniform(random, 0, std::size(dims) - 1)],
          .type = testing::kTypes[testing::uniform(random, 0, 2)],
          .normalize = testing::uniform(random, 0, 3) > 0,
          .output_norm = testing::uniform(random, 0, 1) == 1,
          .masked = testing::uniform(random, 0, 1) == 1,
          .misalignment = static_cast<std::size_t>(testing::uniform(random, 0, 3) == 0 ? 1 : 0),
          .value_dim = dims[testing::uniform(random, 0, std::size(dims) - 1)]};
}

TEST(CudaTaylorShift, EveryTacticEqualsTheDefinition) {
  testing::in_every_order([](const std::string& order) {
    std::mt19937 random(1);
    for (int i = 0; i < 16; ++i) expect_definition(random_case(random), random, testing::device(), order);
  });
}

// One width for each class of tiles.
TEST(CudaTaylorShift, EveryKernelVariantEqualsTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t dim : {12, 24, 64, 100, 130}) {
    for (const DType type : testing::kTypes) expect_definition({1, 3, 1, dim, type}, random);
  }
}

// Values of another class of tiles than keys, wider and narrower.
TEST(CudaTaylorShift, ValuesMayBeMuchWiderOrNarrowerThanKeys) {
  std::mt19937 random(11);
  for (const DType type : testing::kTypes) {
    expect_definition({.batch = 2, .length = 67, .heads = 2, .dim = 5, .type = type, .masked = true, .value_dim = 131},
                      random);
    expect_definition({.batch = 2, .length = 67, .heads = 2, .dim = 16, .type = type, .value_dim = 64}, random);
    expect_definition({.batch = 1, .length = 5, .heads = 2, .dim = 37, .type = type, .value_dim = 3}, random);
  }
}

// All four tactics at d = 256 take long under the shim: 33153 features.
TEST(CudaTaylorShift, WidestHeadsFitIntoEveryDevice) {
  std::mt19937 random(3);
  for (const DType type : testing::kTypes) {
    TaylorShift op({1, 19, 1, 256, type}, random);
    const Buffer expected = op.naive();
    for (const int sm : {75, 86}) {
      for (const int tactic : {kDirect, kDirectTensor}) {
        if (!cuda::taylor_shift_supports(op.arguments(), tactic, testing::device(sm))) continue;
        const std::optional<Buffer> actual = op.run(tactic, testing::device(sm));
        ASSERT_TRUE(actual.has_value());
        testing::expect_close(*actual, expected, 256.0, "d=256 tactic " + std::to_string(tactic),
                              op.operand_rounding(tactic));
      }
    }
    EXPECT_TRUE(cuda::taylor_shift_supports(op.arguments(), kEfficient, kTuring));
    EXPECT_EQ(cuda::taylor_shift_supports(op.arguments(), kEfficientTensor, kAmpere), type != DType::kFloat32);
  }
}

TEST(CudaTaylorShift, LongInputsAreSplitIntoSegments) {
  std::mt19937 random(4);
  for (const DType type : testing::kTypes)
    expect_definition({.batch = 2, .length = 521, .heads = 1, .dim = 3, .type = type, .masked = true}, random);
}

TEST(CudaTaylorShift, LargeTemperaturesDoNotOverflow) {
  std::mt19937 random(5);
  for (const DType type : testing::kTypes)
    expect_definition({.batch = 1, .length = 33, .heads = 2, .dim = 8, .type = type, .temperature = 4000.0f}, random);
}

TEST(CudaTaylorShift, SameInputSameBits) {
  std::mt19937 random(6);
  for (const DType type : testing::kTypes) {
    TaylorShift op({.batch = 1, .length = 300, .heads = 2, .dim = 5, .type = type, .masked = true}, random);
    for (int tactic = 0; tactic < kTactics; ++tactic) {
      if (!cuda::taylor_shift_supports(op.arguments(), tactic, testing::device())) continue;
      std::optional<Buffer> first;
      testing::in_every_order([&](const std::string& order) {
        for (int repeat = 0; repeat < 2; ++repeat) {
          const std::optional<Buffer> own = op.run(tactic, testing::device());
          ASSERT_TRUE(own.has_value());
          EXPECT_TRUE(!first.has_value() || own->same_bits(*first)) << tactic << " " << order;
          first = own;
        }
      });
    }
  }
}

TEST(CudaTaylorShift, EachTacticLaunchesItsKernels) {
  std::mt19937 random(7);
  TaylorShift op({.batch = 1, .length = 9, .heads = 1, .dim = 8, .type = DType::kBFloat16}, random);
  const auto kernels = [&](int tactic) {
    op.run(tactic, testing::device());
    return testing::launched();
  };
  if (kernels(kDirect).empty()) GTEST_SKIP() << "a GPU keeps no log";
  EXPECT_THAT(kernels(kDirect), Each(HasSubstr("taylor_attend_simt")));
  EXPECT_THAT(kernels(kEfficient), AllOf(Contains(HasSubstr("taylor_accumulate_simt")),
                                         Contains(HasSubstr("taylor_combine")), Each(Not(HasSubstr("tensor<")))));
  EXPECT_THAT(kernels(kDirectTensor), Each(HasSubstr("taylor_attend_tensor")));
  EXPECT_THAT(kernels(kEfficientTensor),
              AllOf(Contains(HasSubstr("taylor_accumulate_tensor")), Contains(HasSubstr("taylor_attend_tensor"))));
}

TEST(CudaTaylorShift, TacticsFitTheDevice) {
  TaylorShiftArgs args{
      .batch = 1, .length = 8, .heads = 1, .dim = 64, .value_dim = 64, .normalize = true, .type = DType::kBFloat16};
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kDirectTensor, kTuring));
  EXPECT_TRUE(cuda::taylor_shift_supports(args, kEfficient, kTuring));
  args.type = DType::kFloat16;
  args.normalize = false;
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kDirectTensor, kAmpere));
  args.type = DType::kFloat32;
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kDirectTensor, kAmpere));
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kTactics, kAmpere));
  EXPECT_FALSE(cuda::taylor_shift_supports(args, -1, kAmpere));
  args.value_dim = 257;
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kDirect, kAmpere));
  args.value_dim = 256;
  EXPECT_TRUE(cuda::taylor_shift_supports(args, kDirect, kAmpere));
  args.dim = 257;
  EXPECT_FALSE(cuda::taylor_shift_supports(args, kDirect, kAmpere));
  EXPECT_NE(cuda::taylor_shift_launch(args, kDirect, kAmpere, nullptr, nullptr), 0);
}

TEST(CudaTaylorShift, ChoosesDirectForFewTokensAndEfficientForMany) {
  for (const std::int64_t dim : {8, 16, 32, 64}) {
    TaylorShiftArgs args{.batch = 8, .length = 16, .heads = 8, .dim = dim, .value_dim = dim, .normalize = true};
    EXPECT_EQ(cuda::taylor_shift_default_tactic(args, kAmpere), kDirect) << dim;
    args.length = 64 * taylor_features(dim);
    EXPECT_EQ(cuda::taylor_shift_default_tactic(args, kAmpere), kEfficient) << dim;
    args.type = DType::kFloat16;
    EXPECT_EQ(cuda::taylor_shift_default_tactic(args, kAmpere), kEfficientTensor) << dim;
  }
}

TEST(CudaTaylorShift, WorkspaceOfTheMaximumCoversSmallerShapes) {
  const cuda::Device device{.sm = 90, .multiprocessors = 132, .shared_memory_per_block = 227 * 1024};
  std::mt19937 random(8);
  for (int i = 0; i < 200; ++i) {
    const auto draw = [&](std::int64_t most) { return std::int64_t{1} << testing::uniform(random, 0, most); };
    const TaylorShiftArgs large{.batch = draw(6),
                                .length = draw(16),
                                .heads = draw(5),
                                .dim = draw(8),
                                .value_dim = draw(8),
                                .normalize = true};
    TaylorShiftArgs small = large;
    small.batch = std::max<std::int64_t>(large.batch / draw(3), 1);
    small.length = std::max<std::int64_t>(large.length / draw(8), 1);
    for (int tactic = 0; tactic < kTactics; ++tactic)
      EXPECT_LE(cuda::taylor_shift_workspace(small, tactic, device),
                cuda::taylor_shift_workspace(large, tactic, device));
  }
}

TEST(CudaTaylorShift, GroupsOfHeadsFitIntoTheWorkspace) {
  std::mt19937 random(9);
  for (int i = 0; i < 200; ++i) {
    const auto draw = [&](int most) { return std::int64_t{testing::uniform(random, 1, most)}; };
    const std::int64_t heads = draw(2000), length = draw(100000), dim = draw(256), wanted = draw(4096);
    const std::int64_t value_dim = draw(256);
    const cuda::SumsPlan plan = cuda::plan_sums(heads, length, dim, value_dim, wanted, cuda::TaylorUnit::kTensor);
    EXPECT_GE(plan.segments * plan.segment_length, length);
    EXPECT_LT((plan.segments - 1) * plan.segment_length, length);
    EXPECT_GE(plan.segment_length, wanted);
    EXPECT_EQ(plan.segment_length % cuda::kQueryTile, 0);
    const auto slots = static_cast<std::size_t>(plan.group * plan.segments);
    EXPECT_LE(slots * static_cast<std::size_t>(cuda::slot_floats(dim, value_dim)) * sizeof(float),
              cuda::sum_bytes(heads * cuda::divide_up(length, wanted), dim, value_dim));
  }
}

TEST(CudaTaylorShift, GroupsOfHeadsAreAboutEqual) {
  std::mt19937 random(19);
  const auto draw = [&](int most) { return std::int64_t{testing::uniform(random, 1, most)}; };
  for (int i = 0; i < 200; ++i) {
    const std::int64_t heads = draw(2000);
    const cuda::SumsPlan plan =
        cuda::plan_sums(heads, draw(20000), draw(128), draw(128), draw(2048), cuda::TaylorUnit::kTensor);
    const std::int64_t rounds = cuda::divide_up(heads, plan.group);
    const std::int64_t last = heads - (rounds - 1) * plan.group;
    // The last round lacks at most one head for each of the others.
    EXPECT_GE(last + rounds - 1, plan.group) << heads << " heads in rounds of " << plan.group;
  }
  const cuda::SumsPlan plan = cuda::plan_sums(128, 4096, 64, 64, 1088, cuda::TaylorUnit::kTensor);
  EXPECT_EQ(128 % plan.group, 0) << plan.group;
}

TEST(CudaTaylorShift, GroupsOfHeadsShareTheWorkspace) {
  std::mt19937 random(10);
  TaylorShift op({.batch = 2, .length = 70, .heads = 3, .dim = 4}, random);
  const std::optional<Buffer> together = op.run(kEfficient, testing::device());
  const std::optional<Buffer> apart = op.run_in_groups(2);
  ASSERT_TRUE(together.has_value() && apart.has_value());
  EXPECT_TRUE(together->same_bits(*apart));
}

TEST(CudaTaylorShift, EmptyInputsLaunchNothing) {
  testing::launched();
  const TaylorShiftArgs empty{.batch = 0, .length = 4, .heads = 2, .dim = 8, .value_dim = 8};
  EXPECT_EQ(cuda::taylor_shift_launch(empty, kDirect, testing::device(), nullptr, nullptr), 0);
  EXPECT_TRUE(testing::launched().empty());
}

}  // namespace
}  // namespace hsm
