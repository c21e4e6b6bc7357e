#include "hsm_operators/causal_taylor_shift/cuda.gen.h"
#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"

#include <gmock/gmock.h>

#include <optional>

#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using ::testing::Contains;
using testing::DeviceMemory;
using ::testing::Each;
using ::testing::HasSubstr;

enum Tactic { kStep, kChunk, kChunkTensor, kTactics };

// For what launchers decide without launching.
constexpr cuda::Device kTuring{.sm = 75, .multiprocessors = 40, .shared_memory_per_block = 64 * 1024};
constexpr cuda::Device kAmpere{.sm = 86, .multiprocessors = 82, .shared_memory_per_block = 99 * 1024};

struct Case {
  std::int64_t batch, length, heads, dim;
  DType type = DType::kFloat32;
  bool normalize = true, in_place = false, full = false;
  std::size_t misalignment = 0;  // elements
  std::int64_t value_dim = dim;
};

std::string describe(const Case& c, int tactic) {
  return std::string(cuda::causal_taylor_shift_tactics()[static_cast<std::size_t>(tactic)]) +
         " B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " d=" + std::to_string(c.dim) + " e=" + std::to_string(c.value_dim) + " " + name_of(c.type) +
         (c.normalize ? " normalize" : "") + (c.in_place ? " in place" : "") +
         (c.misalignment > 0 ? " misaligned" : "");
}

struct Result {
  Buffer y, state, norm;

  bool same_bits(const Result& other) const {
    return y.same_bits(other.y) && state.same_bits(other.state) && norm.same_bits(other.norm);
  }
};

class CausalTaylorShift {
 public:
  CausalTaylorShift(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, count(own.length, own.dim)),
        k_(own.type, count(own.length, own.dim)),
        v_(own.type, count(own.length, own.value_dim)),
        temperature_(own.type, static_cast<std::size_t>(own.heads)),
        state_(DType::kFloat32, features() * static_cast<std::size_t>(own.value_dim)),
        norm_(DType::kFloat32, features()) {
    const float scale = own.normalize ? 1.0f : 0.3f;
    for (Buffer* buffer : {&q_, &k_}) buffer->randomize(random, scale);
    v_.randomize(random);
    for (std::size_t h = 0; h < temperature_.size(); ++h) temperature_.set(h, 0.5f + 0.25f * static_cast<float>(h % 7));
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(own.full ? own.length : testing::uniform(random, 0, static_cast<int>(own.length)));
    }
    carry_earlier_tokens(random);
    poison_padding();
  }

  Result naive() {
    Result result{Buffer(case_.type, v_.size()), state_, norm_};
    result.y.poison();
    CausalTaylorShiftArgs args = arguments();
    args.q = q_.data();
    args.k = k_.data();
    args.v = v_.data();
    args.temperature = temperature_.data();
    args.lengths = lengths_.data();
    args.y = result.y.data();
    args.state = args.state_out = static_cast<float*>(result.state.data());
    args.norm = args.norm_out = static_cast<float*>(result.norm.data());
    causal_taylor_shift_naive(args);
    clear_padding(result.y);
    return result;
  }

  // Returns the result, or nothing if the launch failed, in which case the test has.
  std::optional<Result> run(int tactic, const cuda::Device& device) {
    const std::size_t offset = case_.misalignment * size_of(case_.type);
    const DeviceMemory q(q_, offset), k(k_, offset), v(v_, offset), temperature(temperature_), lengths(lengths_);
    const std::size_t state_offset = case_.misalignment * sizeof(float);
    DeviceMemory y(v.bytes(), offset), state(state_, state_offset), norm(norm_);
    DeviceMemory state_out(state.bytes(), state_offset), norm_out(norm.bytes());
    CausalTaylorShiftArgs args = arguments();
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.temperature = temperature.data();
    args.lengths = lengths.int64s();
    args.y = y.data();
    args.state = state.floats();
    args.norm = norm.floats();
    DeviceMemory& new_state = case_.in_place ? state : state_out;
    DeviceMemory& new_norm = case_.in_place ? norm : norm_out;
    args.state_out = new_state.floats();
    args.norm_out = new_norm.floats();
    DeviceMemory workspace(cuda::causal_taylor_shift_workspace(args, tactic, device));
    testing::launched();
    testing::expect_launched(cuda::causal_taylor_shift_launch(args, tactic, device, workspace.data(), nullptr),
                             describe(case_, tactic));
    if (::testing::Test::HasFatalFailure()) return std::nullopt;
    Result result{Buffer(case_.type, v_.size()), state_, norm_};
    y.fetch(result.y);
    new_state.fetch(result.state);
    new_norm.fetch(result.norm);
    clear_padding(result.y);
    return result;
  }

  // As in the bidirectional form; v is that of this call and before it.
  double operand_rounding(int tactic) const {
    if (tactic != kChunkTensor) return 0;
    return testing::epsilon(case_.type) * std::max(testing::largest(v_), largest_earlier_);
  }

  CausalTaylorShiftArgs arguments() const {
    return {.batch = case_.batch,
            .length = case_.length,
            .heads = case_.heads,
            .dim = case_.dim,
            .value_dim = case_.value_dim,
            .normalize = case_.normalize,
            .type = case_.type};
  }

 private:
  // Starts from the state of a few earlier tokens: a random state could have a normaliser near zero.
  void carry_earlier_tokens(std::mt19937& random) {
    const std::vector<std::int64_t> three(static_cast<std::size_t>(case_.batch), 3);
    Buffer q(case_.type, count(3, case_.dim)), k(case_.type, q.size());
    Buffer v(case_.type, count(3, case_.value_dim)), y(case_.type, v.size());
    k.randomize(random, case_.normalize ? 1.0f : 0.3f);
    v.randomize(random);
    largest_earlier_ = testing::largest(v);
    CausalTaylorShiftArgs args = arguments();
    args.length = 3;
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.temperature = temperature_.data();
    args.lengths = three.data();
    args.y = y.data();
    args.state = args.state_out = static_cast<float*>(state_.data());
    args.norm = args.norm_out = static_cast<float*>(norm_.data());
    causal_taylor_shift_naive(args);
  }

  void poison_padding() {
    for (Buffer* buffer : {&q_, &k_, &v_}) {
      for_padding(*buffer, [&](std::size_t i) { buffer->set(i, std::numeric_limits<float>::quiet_NaN()); });
    }
  }

  void clear_padding(Buffer& y) const {
    for_padding(y, [&](std::size_t i) { y.set(i, 0.0f); });
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

  std::size_t count(std::int64_t length, std::int64_t width) const {
    return static_cast<std::size_t>(case_.batch * length * case_.heads * width);
  }
  std::size_t features() const {
    return static_cast<std::size_t>(case_.batch * case_.heads * taylor_features(case_.dim));
  }

  Case case_;
  Buffer q_, k_, v_, temperature_, state_, norm_;
  std::vector<std::int64_t> lengths_;
  double largest_earlier_ = 0;  // of the values before this call
};

// On tensor cores keys' features have 16 bits in bfloat16 and 22 in float16, which the state, float32, shows.
void expect_state(const Buffer& actual, const Buffer& expected, double sum, bool tensor, const std::string& what) {
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) largest = std::max(largest, std::fabs(double{expected.at(i)}));
  const double bound = (std::sqrt(sum + 1) * 0x1p-21 + (tensor ? 0x1p-16 : 0)) * largest;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual.at(i), expected.at(i), bound + 0x1p-23 * std::fabs(double{expected.at(i)})) << what << " " << i;
  }
}

// Runs a case with every tactic that supports it, in one order of threads.
void expect_definition(const Case& c, std::mt19937& random, const cuda::Device& device = testing::device(),
                       const std::string& order = "") {
  CausalTaylorShift op(c, random);
  const Result expected = op.naive();
  const auto sum = static_cast<double>(c.length + c.dim * c.dim);
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    if (!cuda::causal_taylor_shift_supports(op.arguments(), tactic, device)) continue;
    const std::optional<Result> actual = op.run(tactic, device);
    ASSERT_TRUE(actual.has_value());
    const std::string what = describe(c, tactic) + " " + order;
    testing::expect_close(actual->y, expected.y, sum, "y " + what, op.operand_rounding(tactic));
    expect_state(actual->state, expected.state, sum, tactic == kChunkTensor, "state " + what);
    expect_state(actual->norm, expected.norm, sum, tactic == kChunkTensor, "norm " + what);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t dims[] = {1, 2, 3, 5, 8, 15, 16, 17, 32, 33};
  constexpr std::int64_t lengths[] = {1, 1, 2, 7, 8, 9, 31, 64, 65, 67};
  return {.batch = testing::uniform(random, 1, 2),
          .length = lengths[testing::uniform(random, 0, std::size(lengths) - 1)],
          .heads = testing::uniform(random, 1, 2),
          .dim = dims[testing::uniform(random, 0, std::size(dims) - 1)],
          .type = testing::kTypes[testing::uniform(random, 0, 2)],
          .normalize = testing::uniform(random, 0, 3) > 0,
          .in_place = testing::uniform(random, 0, 1) == 1,
          .misalignment = static_cast<std::size_t>(testing::uniform(random, 0, 3) == 0 ? 1 : 0),
          .value_dim = dims[testing::uniform(random, 0, std::size(dims) - 1)]};
}

TEST(CudaCausalTaylorShift, EveryTacticEqualsTheDefinition) {
  testing::in_every_order([](const std::string& order) {
    std::mt19937 random(1);
    for (int i = 0; i < 20; ++i) expect_definition(random_case(random), random, testing::device(), order);
  });
}

TEST(CudaCausalTaylorShift, SegmentsCarryTheState) {
  std::mt19937 random(2);
  for (const DType type : testing::kTypes) {
    expect_definition({.batch = 2, .length = 300, .heads = 1, .dim = 3, .type = type, .in_place = true}, random);
    expect_definition({.batch = 1, .length = 257, .heads = 1, .dim = 5, .type = type, .full = true}, random);
  }
}

// One width for each class of tiles, both numbers of tokens of a step, and every way in which it loads rows.
TEST(CudaCausalTaylorShift, EveryKernelVariantEqualsTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t dim : {12, 24, 37, 64, 100, 132}) {
    for (const DType type : testing::kTypes) {
      for (const std::int64_t length : {1, 3}) {
        expect_definition({.batch = 1, .length = length, .heads = 1, .dim = dim, .type = type, .full = true}, random);
      }
    }
  }
}

// Rows of the state of every width that a lane's loads divide among lanes in another way.
TEST(CudaCausalTaylorShift, StepsLoadRowsOfEveryWidth) {
  std::mt19937 random(12);
  for (const std::int64_t value_dim : {1, 3, 4, 7, 8, 12, 20, 31, 33, 60, 65, 124, 127, 128, 136, 200, 255, 256}) {
    for (const std::size_t misalignment : {0, 1}) {
      for (const std::int64_t length : {1, 8}) {
        expect_definition({.batch = 1,
                           .length = length,
                           .heads = 1,
                           .dim = 6,
                           .full = true,
                           .misalignment = misalignment,
                           .value_dim = value_dim},
                          random);
      }
    }
  }
}

// Values of another class of tiles than keys, wider and narrower.
TEST(CudaCausalTaylorShift, ValuesMayBeMuchWiderOrNarrowerThanKeys) {
  std::mt19937 random(9);
  for (const DType type : testing::kTypes) {
    for (const std::int64_t length : {1, 5, 131}) {
      expect_definition({.batch = 2, .length = length, .heads = 2, .dim = 5, .type = type, .value_dim = 131}, random);
      expect_definition({.batch = 1, .length = length, .heads = 2, .dim = 16, .type = type, .value_dim = 64}, random);
      expect_definition({.batch = 1, .length = length, .heads = 1, .dim = 37, .type = type, .value_dim = 3}, random);
    }
  }
}

TEST(CudaCausalTaylorShift, StepsOfTheWidestHeadsFitIntoEveryDevice) {
  std::mt19937 random(4);
  CausalTaylorShift op({1, 1, 1, 256, DType::kFloat16, true, true, true}, random);
  const Result expected = op.naive();
  for (const int sm : {75, 86}) {
    const std::optional<Result> actual = op.run(kStep, testing::device(sm));
    ASSERT_TRUE(actual.has_value());
    testing::expect_close(actual->y, expected.y, 65536.0, "y");
    expect_state(actual->state, expected.state, 1.0, false, "state");
  }
}

TEST(CudaCausalTaylorShift, IdleRowsKeepTheirState) {
  std::mt19937 random(5);
  for (const std::int64_t length : {1, 8, 9}) {
    for (const bool in_place : {false, true}) {
      // With batches of random lengths, 0 among them.
      for (int i = 0; i < 4; ++i) {
        expect_definition({.batch = 3, .length = length, .heads = 1, .dim = 4, .in_place = in_place}, random);
      }
    }
  }
}

TEST(CudaCausalTaylorShift, SameInputSameBits) {
  std::mt19937 random(6);
  for (const std::int64_t length : {1, 8, 200}) {
    CausalTaylorShift op({.batch = 1, .length = length, .heads = 2, .dim = 6, .type = DType::kBFloat16, .full = true},
                         random);
    for (int tactic = 0; tactic < kTactics; ++tactic) {
      if (!cuda::causal_taylor_shift_supports(op.arguments(), tactic, testing::device())) continue;
      std::optional<Result> first;
      testing::in_every_order([&](const std::string& order) {
        for (int repeat = 0; repeat < 2; ++repeat) {
          const std::optional<Result> own = op.run(tactic, testing::device());
          ASSERT_TRUE(own.has_value());
          EXPECT_TRUE(!first.has_value() || own->same_bits(*first)) << tactic << " " << order;
          first = own;
        }
      });
    }
  }
}

TEST(CudaCausalTaylorShift, EachTacticLaunchesItsKernels) {
  std::mt19937 random(7);
  CausalTaylorShift op({.batch = 1, .length = 2, .heads = 1, .dim = 8, .type = DType::kFloat16}, random);
  const auto kernels = [&](int tactic) {
    op.run(tactic, testing::device());
    return testing::launched();
  };
  const auto step = kernels(kStep);
  if (step.empty()) GTEST_SKIP() << "a GPU keeps no log";
  EXPECT_THAT(step, Each(HasSubstr("causal_taylor_step")));
  EXPECT_THAT(kernels(kChunk), Contains(HasSubstr("taylor_attend_simt")));
  EXPECT_THAT(kernels(kChunkTensor), Contains(HasSubstr("taylor_attend_tensor")));
}

TEST(CudaCausalTaylorShift, ChoosesByLengthTypeAndDevice) {
  CausalTaylorShiftArgs args{
      .batch = 2, .length = 1, .heads = 4, .dim = 64, .value_dim = 64, .normalize = true, .type = DType::kBFloat16};
  EXPECT_EQ(cuda::causal_taylor_shift_default_tactic(args, kAmpere), kStep);
  args.length = 100;
  EXPECT_EQ(cuda::causal_taylor_shift_default_tactic(args, kAmpere), kChunkTensor);
  EXPECT_EQ(cuda::causal_taylor_shift_default_tactic(args, kTuring), kChunk);
  EXPECT_FALSE(cuda::causal_taylor_shift_supports(args, kStep, kAmpere));
  args.type = DType::kFloat32;
  EXPECT_EQ(cuda::causal_taylor_shift_default_tactic(args, kAmpere), kChunk);
  args.value_dim = 257;
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    EXPECT_FALSE(cuda::causal_taylor_shift_supports(args, tactic, kAmpere));
  }
}

#ifdef HSM_SIMT
// Four blocks of 256 threads and 64 registers fit a multiprocessor at a time.
TEST(CudaCausalTaylorShift, StepsFillTheLastWave) {
  simt::settings().execute = false;
  for (const int multiprocessors : {16, 20, 40, 46, 72, 82, 108, 128, 132, 148, 160}) {
    const cuda::Device device{.sm = 90, .multiprocessors = multiprocessors, .shared_memory_per_block = 227 * 1024};
    for (const std::int64_t heads : {1, 8, 16, 48, 128, 300, 512, 1000}) {
      CausalTaylorShiftArgs args{.batch = 1, .length = 1, .heads = heads, .dim = 64, .value_dim = 64};
      args.type = DType::kBFloat16;
      testing::launched();
      std::vector<std::byte> workspace(cuda::causal_taylor_shift_workspace(args, kStep, device));
      ASSERT_EQ(cuda::causal_taylor_shift_launch(args, kStep, device, workspace.data(), nullptr), 0);
      const std::int64_t blocks = simt::launches().at(0).grid.x;
      const std::int64_t wave = 4 * multiprocessors;
      const double fill = static_cast<double>(blocks) / static_cast<double>((blocks + wave - 1) / wave * wave);
      // Up to 34 slices of a head: fewer blocks than a wave only where there are no more.
      const double most = std::min(1.0, static_cast<double>(34 * heads) / static_cast<double>(wave));
      EXPECT_GE(fill, 0.7 * most) << heads << " heads on " << multiprocessors << " multiprocessors: " << blocks;
    }
  }
  simt::settings().execute = true;
  simt::clear_launches();
}
#endif

TEST(CudaCausalTaylorShift, WorkspaceOfTheMaximumCoversSmallerShapes) {
  const cuda::Device device{.sm = 90, .multiprocessors = 132, .shared_memory_per_block = 227 * 1024};
  std::mt19937 random(8);
  for (int i = 0; i < 200; ++i) {
    const auto draw = [&](int most) { return std::int64_t{1} << testing::uniform(random, 0, most); };
    const CausalTaylorShiftArgs large{.batch = draw(6),
                                      .length = draw(16),
                                      .heads = draw(5),
                                      .dim = draw(8),
                                      .value_dim = draw(8),
                                      .normalize = true};
    CausalTaylorShiftArgs small = large;
    small.batch = std::max<std::int64_t>(large.batch / draw(3), 1);
    small.length = std::max<std::int64_t>(large.length / draw(8), 1);
    for (int tactic = 0; tactic < kTactics; ++tactic) {
      EXPECT_LE(cuda::causal_taylor_shift_workspace(small, tactic, device),
                cuda::causal_taylor_shift_workspace(large, tactic, device));
    }
  }
}

TEST(CudaCausalTaylorShift, EmptyInputsLaunchNothing) {
  testing::launched();
  EXPECT_EQ(cuda::causal_taylor_shift_launch({.batch = 0, .length = 4, .heads = 2, .dim = 8, .value_dim = 8}, kStep,
                                             testing::device(), nullptr, nullptr),
            0);
  EXPECT_TRUE(testing::launched().empty());
}

}  // namespace
}  // namespace hsm
