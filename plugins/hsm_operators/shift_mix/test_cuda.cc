#include "hsm_operators/shift_mix/cuda.gen.h"

#include "hsm_operators/shift_mix/split.h"
#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using testing::DeviceMemory;

struct Case {
  std::int64_t batch, length, group;
  std::vector<std::int64_t> shifts;
  DType type;
  bool mixes = true, cached = false, in_place = false;
  std::int64_t spare = 0;  // ring rows beyond those that the shifts need
  std::size_t misalignment = 0;

  std::int64_t width() const { return group * static_cast<std::int64_t>(shifts.size()); }
  std::int64_t ring_rows() const {
    return cached ? std::max(*std::ranges::max_element(shifts), std::int64_t{1}) + spare : 0;
  }
};

std::string describe(const Case& c, int tactic) {
  std::string text = "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) +
                     " D=" + std::to_string(c.width()) + " R=" + std::to_string(c.ring_rows()) + " " + name_of(c.type) +
                     (c.mixes ? " mix" : "") + (c.cached ? " cached" : "") + (c.in_place ? " in place" : "") + " " +
                     std::string(cuda::shift_mix_tactics()[static_cast<std::size_t>(tactic)]) + " shifts";
  for (const std::int64_t shift : c.shifts) text += " " + std::to_string(shift);
  return text;
}

struct Result {
  Buffer y, ring;
};

class ShiftMix {
 public:
  ShiftMix(const Case& own, std::mt19937& random)
      : case_(own),
        x_(own.type, count(own.length)),
        alpha_(own.type, static_cast<std::size_t>(own.width())),
        beta_(own.type, static_cast<std::size_t>(own.width())),
        ring_(own.type, count(own.ring_rows())) {
    x_.randomize(random);
    alpha_.randomize(random);
    beta_.randomize(random);
    ring_.randomize(random);
    for (std::int64_t b = 0; b < own.batch; ++b) {
      position_.push_back(testing::uniform(random, 0, static_cast<int>(2 * own.ring_rows())));
      lengths_.push_back(testing::uniform(random, 0, static_cast<int>(own.length)));
      // The position of an idle row may be any number.
      if (lengths_.back() == 0 && b % 2 == 0) position_.back() = b % 4 == 0 ? -5 : INT64_MAX;
    }
  }

  std::vector<std::int64_t>& position() { return position_; }
  std::vector<std::int64_t>& lengths() { return lengths_; }

  Result naive() {
    Result result = poisoned();
    ShiftMixArgs args = sizes();
    args.x = x_.data();
    args.alpha = case_.mixes ? alpha_.data() : nullptr;
    args.beta = case_.mixes ? beta_.data() : nullptr;
    args.y = result.y.data();
    if (case_.cached) bind_ring(args, ring_.data(), position_.data(), lengths_.data(), result.ring.data());
    shift_mix_naive(args);
    return result;
  }

  // With at most so many threads a launch, where it is told.
  Result run(int tactic, std::int64_t most_threads = cuda::kMostShiftMixThreads) {
    const cuda::Device device = testing::device();
    const DeviceMemory x(x_, case_.misalignment);
    const DeviceMemory alpha(alpha_, case_.misalignment);
    const DeviceMemory beta(beta_, case_.misalignment);
    DeviceMemory ring(ring_, case_.misalignment);
    const DeviceMemory position(position_);
    const DeviceMemory lengths(lengths_);
    DeviceMemory y(x.bytes(), case_.misalignment);
    DeviceMemory ring_out(ring.bytes(), case_.misalignment);
    DeviceMemory& written = case_.in_place ? ring : ring_out;
    ShiftMixArgs args = sizes();
    args.x = x.data();
    args.alpha = case_.mixes ? alpha.data() : nullptr;
    args.beta = case_.mixes ? beta.data() : nullptr;
    args.y = y.data();
    if (case_.cached) bind_ring(args, ring.data(), position.int64s(), lengths.int64s(), written.data());
    EXPECT_TRUE(cuda::shift_mix_supports(args, tactic, device));
    const int code = most_threads == cuda::kMostShiftMixThreads
                         ? cuda::shift_mix_launch(args, tactic, device, nullptr, nullptr)
                         : cuda::shift_mix_launch_split(args, tactic, most_threads, nullptr);
    testing::expect_launched(code, describe(case_, tactic));
    Result result = poisoned();
    y.fetch(result.y);
    written.fetch(result.ring);
    return result;
  }

  // Expects equal valid outputs and equal rings.
  void compare(const Result& actual, const Result& expected, const std::string& what) const {
    const std::int64_t row = case_.width();
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      const std::int64_t valid = case_.cached ? lengths_[static_cast<std::size_t>(b)] : case_.length;
      for (std::int64_t i = 0; i < valid * row; ++i) {
        const auto at = static_cast<std::size_t>(b * case_.length * row + i);
        const double want = expected.y.at(at);
        const double bound = case_.mixes ? 4 * testing::epsilon(case_.type) * (std::fabs(want) + 4) : 0;
        ASSERT_NEAR(actual.y.at(at), want, bound) << what << " at " << i;
      }
    }
    if (case_.cached) {
      ASSERT_TRUE(actual.ring.same_bits(expected.ring)) << what << ": the rings differ";
    }
  }

 private:
  std::size_t count(std::int64_t rows) const { return static_cast<std::size_t>(case_.batch * rows * case_.width()); }

  ShiftMixArgs sizes() const {
    return {.batch = case_.batch,
            .length = case_.length,
            .width = case_.width(),
            .shifts = case_.shifts,
            .type = case_.type};
  }

  void bind_ring(ShiftMixArgs& args, const void* ring, const std::int64_t* position, const std::int64_t* lengths,
                 void* ring_out) const {
    args.ring_rows = case_.ring_rows();
    args.ring = ring;
    args.position = position;
    args.lengths = lengths;
    args.ring_out = ring_out;
  }

  Result poisoned() const {
    Result result{Buffer(case_.type, x_.size()), Buffer(case_.type, ring_.size())};
    result.y.poison();
    result.ring.poison();
    return result;
  }

  Case case_;
  Buffer x_, alpha_, beta_, ring_;
  std::vector<std::int64_t> position_, lengths_;
};

// The tactics that a case has: a step needs a ring.
std::vector<int> tactics(const Case& c) { return c.cached ? std::vector{0, 1, 2} : std::vector{0, 1}; }

void expect_equal(const Case& c, std::mt19937& random) {
  ShiftMix op(c, random);
  const Result expected = op.naive();
  for (const int tactic : tactics(c)) {
    testing::in_every_order(
        [&](const std::string& order) { op.compare(op.run(tactic), expected, describe(c, tactic) + ", " + order); });
  }
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t kGroups[] = {1, 3, 7, 8, 16, 24, 32, 65};
  Case c{testing::uniform(random, 1, 5),
         testing::uniform(random, 1, 40),
         kGroups[testing::uniform(random, 0, 7)],
         {},
         testing::kTypes[testing::uniform(random, 0, 2)]};
  c.mixes = testing::uniform(random, 0, 2) > 0;
  c.cached = testing::uniform(random, 0, 2) > 0;
  c.in_place = testing::uniform(random, 0, 1) == 1;
  c.spare = testing::uniform(random, 0, 5);
  const int least = c.cached ? 0 : -50;
  for (int g = testing::uniform(random, 1, 4); g > 0; --g) c.shifts.push_back(testing::uniform(random, least, 50));
  if (testing::uniform(random, 0, 2) == 0) {
    c.misalignment = size_of(c.type) * static_cast<std::size_t>(testing::uniform(random, 1, 3));
  }
  return c;
}

TEST(CudaShiftMix, EqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 120; ++i) expect_equal(random_case(random), random);
}

TEST(CudaShiftMix, StepsEqualTheDefinition) {
  std::mt19937 random(2);
  for (int i = 0; i < 60; ++i) {
    Case c = random_case(random);
    c.cached = c.in_place = true;
    for (std::int64_t& shift : c.shifts) shift = std::max(shift, std::int64_t{0});
    c.length = 1 + i % 3;
    expect_equal(c, random);
  }
}

TEST(CudaShiftMix, LongAndWideInputsEqualTheDefinition) {
  std::mt19937 random(3);
  for (const DType type : testing::kTypes) {
    expect_equal({2, 257, 128, {1, 2, 4, 64}, type}, random);
    expect_equal({1, 131, 256, {1, 300}, type, true, true, true, 7}, random);
  }
}

TEST(CudaShiftMix, ShiftsBeyondEveryLengthReadZero) {
  std::mt19937 random(9);
  for (const bool mixes : {false, true}) {
    expect_equal({2, 9, 8, {INT64_MAX, INT64_MIN, 9, -9, 0}, DType::kFloat32, mixes}, random);
  }
}

// More groups than travel with one launch.
TEST(CudaShiftMix, ManyGroupsEqualTheDefinition) {
  std::mt19937 random(4);
  for (const bool cached : {false, true}) {
    Case c{2, 9, 8, {}, DType::kFloat16, true, cached, cached};
    for (int g = 0; g < 300; ++g) c.shifts.push_back((cached ? 0 : -5) + g % 11);
    expect_equal(c, random);
  }
}

TEST(CudaShiftMix, IdleRowsLeaveTheRingAlone) {
  std::mt19937 random(5);
  for (const bool in_place : {false, true}) {
    const Case c{3, 4, 16, {1, 5}, DType::kBFloat16, true, true, in_place, 2};
    ShiftMix op(c, random);
    op.lengths() = {0, 0, 0};
    op.position() = {-7, INT64_MAX, INT64_MIN};
    const Result expected = op.naive();
    for (const int tactic : tactics(c)) op.compare(op.run(tactic), expected, describe(c, tactic));
  }
}

// Lengths and positions live on the device and cannot be refused: nothing outside the buffers may be touched.
TEST(CudaShiftMix, WrongLengthsAndPositionsStayInsideTheBuffers) {
  std::mt19937 random(6);
  for (const bool in_place : {false, true}) {
    const Case c{4, 6, 16, {1, 5}, DType::kFloat32, true, true, in_place, 2};
    ShiftMix op(c, random);
    op.lengths() = {-3, 7, INT64_MAX, INT64_MIN};
    op.position() = {INT64_MAX, INT64_MIN, -1, INT64_MAX - 2};
    for (const int tactic : tactics(c)) op.run(tactic);
  }
}

TEST(CudaShiftMix, EveryTacticAndWidthHasItsKernel) {
  std::mt19937 random(7);
  std::set<std::string> kernels;
  for (const DType type : testing::kTypes) {
    for (const std::size_t misalignment : {std::size_t{0}, size_of(type)}) {
      const Case c{1, 3, 16, {1, 2}, type, true, true, true, 0, misalignment};
      ShiftMix op(c, random);
      std::set<std::string> of_case;
      testing::launched();
      for (const int tactic : tactics(c)) {
        op.run(tactic);
        of_case.merge(testing::launched());
      }
      const bool logs = !of_case.empty();
      EXPECT_EQ(of_case.size(), logs ? 4U : 0U);  // two tiles, ring, step
      kernels.merge(of_case);
    }
  }
  EXPECT_TRUE(kernels.empty() || kernels.size() == 24U) << kernels.size();
}

TEST(CudaShiftMix, LaunchesOfSomeRowsEqualTheDefinition) {
  std::mt19937 random(11);
  for (const bool cached : {false, true}) {
    for (const bool in_place : {false, true}) {
      const Case c{5, 12, 8, {1, 4}, DType::kFloat16, true, cached, cached && in_place};
      ShiftMix op(c, random);
      const Result expected = op.naive();
      for (const int tactic : tactics(c)) {
        for (const std::int64_t threads : {1, 60, 100}) {
          op.compare(op.run(tactic, threads), expected, describe(c, tactic) + ", threads " + std::to_string(threads));
        }
      }
    }
  }
}

#ifdef HSM_SIMT
TEST(CudaShiftMix, TakesMoreElementsThanALaunchHasThreads) {
  const std::vector<std::int64_t> shifts = {1, 2};
  ShiftMixArgs args{.batch = 32, .length = 65536, .width = 2048, .shifts = shifts, .type = DType::kBFloat16};
  args.x = args.alpha = args.beta = args.y = reinterpret_cast<void*>(std::uintptr_t{2});  // elements one by one
  const cuda::Device device = testing::device(90);
  simt::Settings& settings = simt::settings();
  settings.execute = false;
  testing::launched();
  const int tactic = cuda::shift_mix_default_tactic(args, device);
  EXPECT_TRUE(cuda::shift_mix_supports(args, tactic, device));
  EXPECT_EQ(cuda::shift_mix_launch(args, tactic, device, nullptr, nullptr), 0) << simt::last_error();
  EXPECT_EQ(simt::launches().size(), 2U);
  for (const simt::Launch& launch : simt::launches()) {
    EXPECT_LE(std::int64_t{launch.grid.x} * launch.block.x, cuda::kMostShiftMixThreads);
  }
  settings.execute = true;
  simt::clear_launches();
}
#endif

TEST(CudaShiftMix, DefaultsFitTheShape) {
  const cuda::Device device = testing::device();
  const std::vector<std::int64_t> shifts = {1, 2};
  ShiftMixArgs args{.batch = 4, .length = 4096, .width = 1024, .shifts = shifts, .type = DType::kFloat16};
  const auto name = [&] {
    return cuda::shift_mix_tactics()[static_cast<std::size_t>(cuda::shift_mix_default_tactic(args, device))];
  };
  EXPECT_EQ(name(), "tile8");
  args.length = args.batch = 1;
  EXPECT_EQ(name(), "tile2");
  EXPECT_FALSE(cuda::shift_mix_supports(args, 2, device));
  args.ring_rows = 2;
  EXPECT_EQ(name(), "step");
  EXPECT_TRUE(cuda::shift_mix_supports(args, 2, device));
  EXPECT_FALSE(cuda::shift_mix_supports(args, 3, device));
  EXPECT_FALSE(cuda::shift_mix_supports(args, -1, device));
  args.length = std::int64_t{1} << 40;
  EXPECT_FALSE(cuda::shift_mix_supports(args, 0, device));
}

TEST(CudaShiftMix, EmptyInputsLaunchNothing) {
  std::mt19937 random(8);
  testing::launched();
  for (const bool cached : {false, true}) {
    const Case c{0, 4, 8, {1}, DType::kFloat32, true, cached, true};
    ShiftMix op(c, random);
    for (const int tactic : tactics(c)) op.run(tactic);
  }
  EXPECT_TRUE(testing::launched().empty());
}

}  // namespace
}  // namespace hsm
