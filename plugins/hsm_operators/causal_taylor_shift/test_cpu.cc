#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"

#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

struct Case {
  std::int64_t batch, length, heads, dim;
  DType type;
  bool normalize, in_place;
  std::int64_t value_dim = dim;
  std::int64_t earlier = 3;  // tokens that came before
};

struct Result {
  Buffer y, state, norm;
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
    q_.randomize(random, scale);
    k_.randomize(random, scale);
    v_.randomize(random);
    for (std::size_t h = 0; h < temperature_.size(); ++h) temperature_.set(h, 0.5f + 0.25f * static_cast<float>(h % 7));
    for (std::int64_t b = 0; b < own.batch; ++b)
      lengths_.push_back(testing::uniform(random, 0, static_cast<int>(own.length)));
    carry_earlier_tokens(random);
  }

  template <typename Run>
  Result run(Run run) {
    Result result{Buffer(case_.type, v_.size()), state_, norm_};
    result.y.poison();
    CausalTaylorShiftArgs args = arguments(lengths_.data(), case_.length, q_, k_, v_, result);
    if (!case_.in_place) {
      args.state = static_cast<const float*>(state_.data());
      args.norm = static_cast<const float*>(norm_.data());
      result.state.poison();
      result.norm.poison();
    }
    run(args);
    clear_beyond_length(result.y);
    return result;
  }

 private:
  // Starts from the state of a few earlier tokens: a random state could have a normaliser near zero.
  void carry_earlier_tokens(std::mt19937& random) {
    const std::vector<std::int64_t> lengths(static_cast<std::size_t>(case_.batch), case_.earlier);
    Buffer q(case_.type, count(case_.earlier, case_.dim)), k(case_.type, q.size());
    Buffer v(case_.type, count(case_.earlier, case_.value_dim));
    k.randomize(random, case_.normalize ? 1.0f : 0.3f);
    v.randomize(random);
    Result result{Buffer(case_.type, v.size()), state_, norm_};
    causal_taylor_shift_naive(arguments(lengths.data(), case_.earlier, q, k, v, result));
    state_ = result.state;
    norm_ = result.norm;
  }

  CausalTaylorShiftArgs arguments(const std::int64_t* lengths, std::int64_t length, const Buffer& q, const Buffer& k,
                                  const Buffer& v, Result& result) const {
    auto* state = static_cast<float*>(result.state.data());
    auto* norm = static_cast<float*>(result.norm.data());
    return {.batch = case_.batch,
            .length = length,
            .heads = case_.heads,
            .dim = case_.dim,
            .value_dim = case_.value_dim,
            .normalize = case_.normalize,
            .type = case_.type,
            .q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .temperature = temperature_.data(),
            .state = state,
            .norm = norm,
            .lengths = lengths,
            .y = result.y.data(),
            .state_out = state,
            .norm_out = norm};
  }

  void clear_beyond_length(Buffer& y) const {
    const std::int64_t row = case_.heads * case_.value_dim;
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      for (std::int64_t i = lengths_[static_cast<std::size_t>(b)] * row; i < case_.length * row; ++i) {
        y.set(static_cast<std::size_t>(b * case_.length * row + i), 0.0f);
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
};

Case random_case(std::mt19937& random) {
  constexpr std::int64_t dims[] = {1, 2, 3, 5, 8, 15, 16, 17, 32, 33};
  constexpr std::int64_t lengths[] = {1, 2, 5, 16, 31, 64, 127, 128, 129, 257};
  return {testing::uniform(random, 0, 2),
          lengths[testing::uniform(random, 0, 9)],
          testing::uniform(random, 1, 3),
          dims[testing::uniform(random, 0, 9)],
          testing::kTypes[testing::uniform(random, 0, 2)],
          testing::uniform(random, 0, 3) > 0,
          testing::uniform(random, 0, 1) == 1,
          dims[testing::uniform(random, 0, 9)],
          3 * testing::uniform(random, 0, 1)};
}

void expect_equal(const Case& c, std::mt19937& random) {
  const std::string what = "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) +
                           " H=" + std::to_string(c.heads) + " d=" + std::to_string(c.dim) +
                           " e=" + std::to_string(c.value_dim) + " after " + std::to_string(c.earlier) + " " +
                           name_of(c.type) + (c.normalize ? " normalize" : "") + (c.in_place ? " in place" : "");
  CausalTaylorShift op(c, random);
  const Result fast = op.run([](const CausalTaylorShiftArgs& args) { causal_taylor_shift(args, {}); });
  const Result naive = op.run(causal_taylor_shift_naive);
  const double sum = static_cast<double>(c.length + c.dim * c.dim);
  testing::expect_close(fast.y, naive.y, sum, "y " + what);
  testing::expect_close(fast.state, naive.state, sum, "state " + what);
  testing::expect_close(fast.norm, naive.norm, sum, "norm " + what);
}

void expect_equal(int cases, std::mt19937& random) {
  for (int i = 0; i < cases; ++i) expect_equal(random_case(random), random);
}

TEST(CausalTaylorShift, FastEqualsTheDefinition) {
  std::mt19937 random(1);
  expect_equal(60, random);
}

TEST(CausalTaylorShift, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    expect_equal(10, random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(CausalTaylorShift, StepsOfWideHeadsEqualTheDefinition) {
  std::mt19937 random(4);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const std::int64_t dim : {40, 64, 130}) {
      for (const std::int64_t length : {1, 3, 4}) {
        expect_equal({2, length, 1, dim, testing::kTypes[length % 3], true, length % 2 == 0}, random);
        expect_equal({2, length, 1, 7, testing::kTypes[length % 3], true, length % 2 == 0, dim}, random);
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

// From nothing, chunks attend to those before them key by key: to all of them where heads are wide, to a few else.
TEST(CausalTaylorShift, PromptsFromNothingEqualTheDefinition) {
  std::mt19937 random(6);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const std::int64_t dim : {8, 32, 48}) {
      expect_equal({2, 530, 1, dim, testing::kTypes[dim % 3], true, dim == 32, 48, 0}, random);
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(CausalTaylorShift, InPlaceHasTheSameBits) {
  for (const std::int64_t length : {1, 3, 16, 40}) {
    std::vector<Result> results;
    for (const bool in_place : {false, true}) {
      std::mt19937 random(5);
      CausalTaylorShift op({3, length, 2, 16, DType::kFloat32, true, in_place}, random);
      results.push_back(op.run([](const CausalTaylorShiftArgs& args) { causal_taylor_shift(args, {}); }));
    }
    EXPECT_TRUE(results[0].y.same_bits(results[1].y));
    EXPECT_TRUE(results[0].state.same_bits(results[1].state) && results[0].norm.same_bits(results[1].norm));
  }
}

TEST(CausalTaylorShift, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(3);
  CausalTaylorShift op({2, 300, 4, 16, DType::kFloat32, true, false}, random);
  testing::Pool pool(4);
  const Result one = op.run([](const CausalTaylorShiftArgs& args) { causal_taylor_shift(args, {}); });
  const Result many =
      op.run([&](const CausalTaylorShiftArgs& args) { causal_taylor_shift(args, pool.parallel_for()); });
  EXPECT_TRUE(one.y.same_bits(many.y) && one.state.same_bits(many.state) && one.norm.same_bits(many.norm));
}

}  // namespace
}  // namespace hsm
