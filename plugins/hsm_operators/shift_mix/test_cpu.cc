#include "hsm_operators/shift_mix/args.gen.h"

#include "hwy/targets.h"
#include "tests/guarded_ring.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

struct Case {
  std::int64_t batch, length, group;
  std::vector<std::int64_t> shifts;
  DType type;
  bool mixes, cached, in_place;
  std::int64_t spare;  // ring rows beyond those that the shifts need
  std::size_t misalignment;

  std::int64_t width() const { return group * static_cast<std::int64_t>(shifts.size()); }
  std::int64_t ring_rows() const {
    return cached ? std::max(*std::ranges::max_element(shifts), std::int64_t{1}) + spare : 0;
  }
};

struct Result {
  Buffer y, ring;
};

class ShiftMix {
 public:
  ShiftMix(const Case& own, std::mt19937& random)
      : case_(own),
        x_(own.type, count(own.length), own.misalignment),
        alpha_(own.type, static_cast<std::size_t>(own.width()), own.misalignment),
        beta_(own.type, static_cast<std::size_t>(own.width()), own.misalignment),
        ring_(own.type, count(own.ring_rows()), own.misalignment) {
    x_.randomize(random);
    alpha_.randomize(random);
    beta_.randomize(random);
    ring_.randomize(random);
    for (std::int64_t b = 0; b < own.batch; ++b) {
      position_.push_back(testing::uniform(random, 0, static_cast<int>(2 * own.ring_rows())));
      lengths_.push_back(testing::uniform(random, 0, static_cast<int>(own.length)));
    }
  }

  template <typename Run>
  Result run(Run run) {
    Result result{Buffer(case_.type, x_.size(), case_.misalignment), Buffer(case_.type, ring_.size())};
    result.y.poison();
    result.ring.poison();
    Buffer shared = ring_;  // the ring of a call that updates it in place
    const bool aliases = case_.in_place;
    ShiftMixArgs args{.batch = case_.batch,
                      .length = case_.length,
                      .width = case_.width(),
                      .shifts = case_.shifts,
                      .type = case_.type,
                      .x = x_.data(),
                      .y = result.y.data()};
    if (case_.mixes) {
      args.alpha = alpha_.data();
      args.beta = beta_.data();
    }
    if (case_.cached) {
      args.ring_rows = case_.ring_rows();
      args.ring = aliases ? shared.data() : ring_.data();
      args.position = position_.data();
      args.lengths = lengths_.data();
      args.ring_out = aliases ? shared.data() : result.ring.data();
    }
    run(args);
    if (aliases) result.ring = shared;
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
        ASSERT_NEAR(actual.y.at(at), want, 4 * testing::epsilon(case_.type) * (std::fabs(want) + 4))
            << what << " at " << i;
      }
    }
    if (case_.cached) {
      ASSERT_TRUE(actual.ring.same_bits(expected.ring)) << what << ": the rings differ";
    }
  }

 private:
  std::size_t count(std::int64_t rows) const { return static_cast<std::size_t>(case_.batch * rows * case_.width()); }

  Case case_;
  Buffer x_, alpha_, beta_, ring_;
  std::vector<std::int64_t> position_, lengths_;
};

Case random_case(std::mt19937& random) {
  Case c{testing::uniform(random, 0, 3),
         testing::uniform(random, 1, 40),
         testing::uniform(random, 1, 70),
         {},
         testing::kTypes[testing::uniform(random, 0, 2)],
         testing::uniform(random, 0, 1) == 1,
         testing::uniform(random, 0, 1) == 1,
         testing::uniform(random, 0, 1) == 1,
         testing::uniform(random, 0, 5),
         0};
  const int least = c.cached ? 0 : -50;
  for (int g = testing::uniform(random, 1, 4); g > 0; --g) c.shifts.push_back(testing::uniform(random, least, 50));
  c.misalignment = size_of(c.type) * static_cast<std::size_t>(testing::uniform(random, 0, 3));
  return c;
}

std::string describe(const Case& c) {
  std::string text = "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) +
                     " D=" + std::to_string(c.width()) + " " + name_of(c.type) + (c.mixes ? " mix" : "") +
                     (c.cached ? " cached" : "") + (c.in_place ? " in place" : "") + " shifts";
  for (const std::int64_t shift : c.shifts) text += " " + std::to_string(shift);
  return text;
}

void expect_equal(int cases, std::mt19937& random) {
  for (int i = 0; i < cases; ++i) {
    const Case c = random_case(random);
    ShiftMix op(c, random);
    op.compare(op.run([](const ShiftMixArgs& args) { shift_mix(args, {}); }), op.run(shift_mix_naive), describe(c));
  }
}

TEST(ShiftMix, FastEqualsTheDefinition) {
  std::mt19937 random(1);
  expect_equal(300, random);
}

TEST(ShiftMix, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    expect_equal(40, random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(ShiftMix, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(3);
  testing::Pool pool(4);
  for (int i = 0; i < 10; ++i) {
    Case c = random_case(random);
    c.length *= 40;
    ShiftMix op(c, random);
    const Result one = op.run([](const ShiftMixArgs& args) { shift_mix(args, {}); });
    const Result many = op.run([&](const ShiftMixArgs& args) { shift_mix(args, pool.parallel_for()); });
    op.compare(many, one, describe(c));
  }
}

TEST(ShiftMix, ShiftsBeyondEveryLengthReadZero) {
  std::mt19937 random(6);
  for (const bool mixes : {false, true}) {
    const Case c{2, 9, 5, {INT64_MAX, INT64_MIN, 9, -9, 0}, DType::kFloat32, mixes, false, false, 0, 0};
    ShiftMix op(c, random);
    op.compare(op.run([](const ShiftMixArgs& args) { shift_mix(args, {}); }), op.run(shift_mix_naive), describe(c));
  }
}

TEST(ShiftMix, AShiftOfZeroNeedsARingOfOneRow) {
  std::mt19937 random(7);
  const Case c{3, 7, 6, {0, 0}, DType::kFloat32, true, true, true, 0, 0};
  ShiftMix op(c, random);
  op.compare(op.run([](const ShiftMixArgs& args) { shift_mix(args, {}); }), op.run(shift_mix_naive), describe(c));
}

// The number of bytes that a step touches must not depend on the shift, or decoding would not be O(1).
TEST(ShiftMix, AStepInPlaceTouchesOneSlotOfTheRing) {
  std::mt19937 random(4);
  Case c{1, 1, 8, {1000}, DType::kFloat32, true, true, true, 0, 0};
  ShiftMix op(c, random);
  Buffer before(DType::kFloat32, 8000);
  const Result result = op.run([&](const ShiftMixArgs& args) {
    std::memcpy(before.data(), args.ring, 32000);
    shift_mix(args, {});
  });
  int changed = 0;
  for (std::size_t i = 0; i < 8000; ++i) changed += before.at(i) != result.ring.at(i);
  EXPECT_LE(changed, 8);
}

TEST(ShiftMix, AStepInPlaceTouchesOnlyTheSlotsOfItsTokens) {
  constexpr std::size_t kSlots = 1024;
  constexpr std::size_t kPosition = 5000;
  testing::GuardedRing ring(kSlots);
  const std::vector<std::int64_t> shifts{1, 700};
  for (const std::int64_t shift : shifts) ring.allow_reading((kPosition - static_cast<std::size_t>(shift)) % kSlots);
  ring.allow_writing(kPosition % kSlots);
  const std::vector<float> x(ring.width(), 3.0f), weights(ring.width(), 0.5f);
  std::vector<float> y(ring.width());
  const std::int64_t position = kPosition, length = 1;
  for (const bool mixes : {false, true}) {
    shift_mix({.batch = 1,
               .length = 1,
               .width = static_cast<std::int64_t>(ring.width()),
               .ring_rows = kSlots,
               .shifts = shifts,
               .x = x.data(),
               .alpha = mixes ? weights.data() : nullptr,
               .beta = mixes ? weights.data() : nullptr,
               .ring = ring.data(),
               .position = &position,
               .lengths = &length,
               .y = y.data(),
               .ring_out = ring.data()},
              {});
    EXPECT_EQ(y.back(), mixes ? 1.5f : 0.0f);
  }
  EXPECT_EQ(ring.slot(kPosition % kSlots)[0], 3.0f);
}

// Outputs that no cache holds are written past the caches where they are aligned.
TEST(ShiftMix, LargeOutputs) {
  std::mt19937 random(5);
  for (const std::size_t misalignment : {std::size_t{0}, sizeof(float)}) {
    const Case c{1, 16500, 64, {1, -2, 64, 0}, DType::kFloat32, true, false, false, 0, misalignment};
    ShiftMix problem(c, random);
    const Result naive = problem.run([](const ShiftMixArgs& args) { shift_mix_naive(args); });
    testing::Pool pool(2);
    const Result fast = problem.run([&](const ShiftMixArgs& args) { shift_mix(args, pool.parallel_for()); });
    problem.compare(fast, naive, "large output");
  }
}

}  // namespace
}  // namespace hsm
