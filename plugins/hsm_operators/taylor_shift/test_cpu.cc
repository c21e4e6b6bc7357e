#include "hsm_operators/taylor_shift/taylor_shift.h"

#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

struct Case {
  std::int64_t batch, length, heads, dim;
  DType type;
  bool normalize, output_norm, masked;
  std::size_t misalignment;
  std::int64_t value_dim = dim;
};

class TaylorShift {
 public:
  TaylorShift(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, count(own.dim), own.misalignment),
        k_(own.type, count(own.dim), own.misalignment),
        v_(own.type, count(own.value_dim), own.misalignment),
        temperature_(own.type, static_cast<std::size_t>(own.heads)) {
    // Without normalisation scores grow with d, so the inputs shrink.
    const float scale = own.normalize ? 1.0f : 0.3f;
    q_.randomize(random, scale);
    k_.randomize(random, scale);
    v_.randomize(random);
    for (std::size_t h = 0; h < temperature_.size(); ++h) temperature_.set(h, 0.5f + 0.25f * static_cast<float>(h % 7));
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(own.masked ? testing::uniform(random, 1, static_cast<int>(own.length)) : own.length);
    }
  }

  Buffer run(TaylorForm form, const ParallelFor& parallel_for = {}) {
    Buffer y(case_.type, v_.size(), case_.misalignment);
    taylor_shift(args(y.poison()), parallel_for, form);
    return valid(std::move(y));
  }

  Buffer naive() {
    Buffer y(case_.type, v_.size());
    taylor_shift_naive(args(y.poison()));
    return valid(std::move(y));
  }

 private:
  std::size_t count(std::int64_t width) const {
    return static_cast<std::size_t>(case_.batch * case_.length * case_.heads * width);
  }

  TaylorShiftArgs args(Buffer& y) {
    return {.batch = case_.batch,
            .length = case_.length,
            .heads = case_.heads,
            .dim = case_.dim,
            .value_dim = case_.value_dim,
            .normalize = case_.normalize,
            .output_norm = case_.output_norm,
            .type = case_.type,
            .q = q_.data(),
            .k = k_.data(),
            .v = v_.data(),
            .temperature = temperature_.data(),
            .lengths = case_.masked ? lengths_.data() : nullptr,
            .y = y.data()};
  }

  // Outputs beyond the length are unspecified; zero in the comparison.
  Buffer valid(Buffer y) const {
    const std::int64_t row = case_.heads * case_.value_dim;
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      for (std::int64_t i = lengths_[static_cast<std::size_t>(b)] * row; i < case_.length * row; ++i) {
        y.set(static_cast<std::size_t>(b * case_.length * row + i), 0.0f);
      }
    }
    return y;
  }

  Case case_;
  Buffer q_, k_, v_, temperature_;
  std::vector<std::int64_t> lengths_;
};

Case random_case(std::mt19937& random) {
  constexpr std::int64_t dims[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33};
  constexpr std::int64_t lengths[] = {1, 2, 3, 7, 16, 31, 64, 127, 128, 129, 193, 257};
  const DType type = testing::kTypes[testing::uniform(random, 0, 2)];
  return {testing::uniform(random, 1, 2),
          lengths[testing::uniform(random, 0, 11)],
          testing::uniform(random, 1, 3),
          dims[testing::uniform(random, 0, 11)],
          type,
          testing::uniform(random, 0, 3) > 0,
          testing::uniform(random, 0, 1) == 1,
          testing::uniform(random, 0, 1) == 1,
          size_of(type) * static_cast<std::size_t>(testing::uniform(random, 0, 3)),
          dims[testing::uniform(random, 0, 11)]};
}

std::string describe(const Case& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " d=" + std::to_string(c.dim) + " e=" + std::to_string(c.value_dim) + " " + name_of(c.type) +
         (c.normalize ? " normalize" : "") + (c.output_norm ? " output_norm" : "") + (c.masked ? " masked" : "");
}

void expect_both_forms(const Case& c, std::mt19937& random) {
  TaylorShift op(c, random);
  const Buffer expected = op.naive();
  const double sum = static_cast<double>(c.length + c.dim * c.dim);
  testing::expect_close(op.run(TaylorForm::kDirect), expected, sum, "direct " + describe(c));
  testing::expect_close(op.run(TaylorForm::kEfficient), expected, sum, "efficient " + describe(c));
}

TEST(TaylorShift, FastFormsEqualTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 60; ++i) expect_both_forms(random_case(random), random);
}

TEST(TaylorShift, WideHeadsEqualTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t dim : {64, 100, 128, 255}) {
    expect_both_forms({1, 40, 2, dim, DType::kFloat32, true, true, false, 0}, random);
  }
}

TEST(TaylorShift, ValuesMayBeMuchWiderOrNarrowerThanKeys) {
  std::mt19937 random(6);
  for (const DType type : testing::kTypes) {
    for (const bool masked : {false, true}) {
      expect_both_forms({2, 300, 2, 16, type, true, true, masked, 0, 131}, random);
      expect_both_forms({2, 300, 2, 47, type, true, true, masked, 0, 1}, random);
    }
  }
}

TEST(TaylorShift, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 10; ++i) expect_both_forms(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(TaylorShift, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(4);
  for (const std::int64_t length : {100, 1100, 2100}) {
    TaylorShift op({1, length, 1, 16, DType::kFloat32, true, false, true, 0}, random);
    testing::Pool pool(4);
    for (const TaylorForm form : {TaylorForm::kDirect, TaylorForm::kEfficient}) {
      EXPECT_TRUE(op.run(form).same_bits(op.run(form, pool.parallel_for())));
    }
  }
}

TEST(TaylorShift, EmptyInputsAreLeftAlone) {
  std::mt19937 random(5);
  TaylorShift op({0, 4, 2, 8, DType::kFloat32, true, false, false, 0}, random);
  EXPECT_EQ(op.run(TaylorForm::kAuto).size(), 0U);
}

}  // namespace
}  // namespace hsm
