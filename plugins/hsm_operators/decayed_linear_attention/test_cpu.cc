#include <cmath>

#include "hsm_operators/decayed_linear_attention/args.gen.h"
#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

enum class Rule { kInclusive, kExclusive, kDelta };

struct Case {
  std::int64_t batch, length, heads, key_dim, value_dim;
  DType type = DType::kFloat32;
  Rule rule = Rule::kInclusive;
  bool per_head = false;  // one decay for all rows of the state
  bool in_place = false;
  float strength = 1.0f;  // of the decays; infinite ones are among strong ones

  std::int64_t decay_dim() const { return per_head ? 1 : key_dim; }
};

std::string describe(const Case& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " K=" + std::to_string(c.key_dim) + " V=" + std::to_string(c.value_dim) + " " + name_of(c.type) +
         (c.rule == Rule::kDelta       ? " delta"
          : c.rule == Rule::kExclusive ? " exclusive"
                                       : "") +
         (c.per_head ? " per head" : "") + (c.in_place ? " in place" : "") + " " + std::to_string(c.strength);
}

struct Result {
  Buffer y, state;
};

class DecayedLinearAttention {
 public:
  DecayedLinearAttention(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, tokens(own.key_dim)),
        k_(own.type, tokens(own.key_dim)),
        v_(own.type, tokens(own.value_dim)),
        log_decay_(own.type, tokens(own.decay_dim())),
        a_(own.type, tokens(own.key_dim)),
        b_(own.type, tokens(own.key_dim)),
        state_(DType::kFloat32, static_cast<std::size_t>(own.batch * own.heads * own.key_dim * own.value_dim)) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(own.key_dim));
    for (Buffer* buffer : {&q_, &k_, &b_}) buffer->randomize(random, scale);
    for (Buffer* buffer : {&v_, &state_, &log_decay_}) buffer->randomize(random);
    for (std::size_t i = 0; i < log_decay_.size(); ++i) {
      const bool forget = own.strength > 1 && testing::uniform(random, 0, 20) == 0;
      log_decay_.set(i, forget ? -std::numeric_limits<float>::infinity() : -own.strength * std::fabs(log_decay_.at(i)));
    }
    // What a reads is taken out again, as with keys of length 1, so that the state stays bounded.
    for (std::size_t i = 0; i < a_.size(); ++i) a_.set(i, -0.7f * b_.at(i));
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(testing::uniform(random, 0, static_cast<int>(own.length)));
    }
    if (own.batch > 0) lengths_.back() = own.length;
    poison_padding();
  }

  template <typename Run>
  Result run(Run run) {
    Result result{Buffer(case_.type, v_.size()), state_};
    result.y.poison();
    if (!case_.in_place) result.state.poison();
    auto* const state = static_cast<float*>(result.state.data());
    const bool delta = case_.rule == Rule::kDelta;
    run(DecayedLinearAttentionArgs{.batch = case_.batch,
                                   .length = case_.length,
                                   .heads = case_.heads,
                                   .key_dim = case_.key_dim,
                                   .value_dim = case_.value_dim,
                                   .decay_dim = case_.decay_dim(),
                                   .exclusive = case_.rule == Rule::kExclusive,
                                   .type = case_.type,
                                   .q = q_.data(),
                                   .k = k_.data(),
                                   .v = v_.data(),
                                   .log_decay = log_decay_.data(),
                                   .a = delta ? a_.data() : nullptr,
                                   .b = delta ? b_.data() : nullptr,
                                   .state = case_.in_place ? state : static_cast<const float*>(state_.data()),
                                   .lengths = lengths_.data(),
                                   .y = result.y.data(),
                                   .state_out = state});
    for_padding(case_.value_dim, [&](std::size_t i) { result.y.set(i, 0.0f); });
    return result;
  }

 private:
  // What stands beyond a row's length must not be looked at.
  void poison_padding() {
    const auto poison = [&](Buffer& buffer, std::int64_t width) {
      for_padding(width, [&](std::size_t i) { buffer.set(i, std::numeric_limits<float>::quiet_NaN()); });
    };
    for (Buffer* buffer : {&q_, &k_, &a_, &b_}) poison(*buffer, case_.key_dim);
    poison(v_, case_.value_dim);
    poison(log_decay_, case_.decay_dim());
  }

  template <typename Body>
  void for_padding(std::int64_t width, Body body) const {
    const std::int64_t row = case_.heads * width;
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      for (std::int64_t i = lengths_[static_cast<std::size_t>(b)] * row; i < case_.length * row; ++i) {
        body(static_cast<std::size_t>(b * case_.length * row + i));
      }
    }
  }

  std::size_t tokens(std::int64_t width) const {
    return static_cast<std::size_t>(case_.batch * case_.length * case_.heads * width);
  }

  Case case_;
  Buffer q_, k_, v_, log_decay_, a_, b_, state_;
  std::vector<std::int64_t> lengths_;
};

Result run_fast(DecayedLinearAttention& op) {
  return op.run([](const DecayedLinearAttentionArgs& args) { decayed_linear_attention(args, {}); });
}

void expect_equal(const Case& c, std::mt19937& random) {
  DecayedLinearAttention op(c, random);
  const Result fast = run_fast(op);
  const Result naive = op.run(decayed_linear_attention_naive);
  const auto sum = static_cast<double>(c.length + c.key_dim);
  testing::expect_close(fast.y, naive.y, sum, "y " + describe(c));
  testing::expect_close(fast.state, naive.state, sum, "state " + describe(c));
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t widths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 48, 64, 65, 80};
  constexpr std::int64_t lengths[] = {1, 2, 3, 5, 8, 9, 13, 16, 17, 33, 37, 64, 100};
  constexpr float strengths[] = {0.0f, 0.01f, 1.0f, 30.0f};
  return {.batch = testing::uniform(random, 0, 2),
          .length = lengths[testing::uniform(random, 0, std::size(lengths) - 1)],
          .heads = testing::uniform(random, 1, 3),
          .key_dim = widths[testing::uniform(random, 0, std::size(widths) - 1)],
          .value_dim = widths[testing::uniform(random, 0, std::size(widths) - 1)],
          .type = testing::kTypes[testing::uniform(random, 0, 2)],
          .rule = static_cast<Rule>(testing::uniform(random, 0, 2)),
          .per_head = testing::uniform(random, 0, 2) == 0,
          .in_place = testing::uniform(random, 0, 1) == 1,
          .strength = strengths[testing::uniform(random, 0, 3)]};
}

constexpr Rule kRules[] = {Rule::kInclusive, Rule::kExclusive, Rule::kDelta};

TEST(DecayedLinearAttention, FastEqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 400; ++i) {
    expect_equal(random_case(random), random);
    if (HasFatalFailure()) return;
  }
}

TEST(DecayedLinearAttention, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 100 && !HasFatalFailure(); ++i) expect_equal(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

// Recurrences of single channels: more heads than a task takes, and than vectors hold.
TEST(DecayedLinearAttention, HeadsOfOneNumberEqualTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t heads : {1, 5, 64, 300}) {
    for (const Rule rule : kRules) {
      for (const DType type : testing::kTypes) {
        expect_equal(
            {.batch = 2, .length = 11, .heads = heads, .key_dim = 1, .value_dim = 1, .type = type, .rule = rule},
            random);
      }
    }
  }
}

TEST(DecayedLinearAttention, WideValuesAreSplitIntoTasks) {
  std::mt19937 random(4);
  for (const Rule rule : kRules) {
    for (const std::int64_t width : {100, 128, 130}) {
      expect_equal({.batch = 1, .length = 41, .heads = 2, .key_dim = 65, .value_dim = width, .rule = rule}, random);
    }
  }
}

// The factors of a chunk are never larger than 1: the sums of its logarithms reach far beyond what exp can hold.
TEST(DecayedLinearAttention, StrongDecaysNeitherOverflowNorCancel) {
  std::mt19937 random(5);
  for (const Rule rule : kRules) {
    for (const float strength : {100.0f, 1e4f, 1e30f}) {
      expect_equal(
          {.batch = 1, .length = 64, .heads = 1, .key_dim = 16, .value_dim = 16, .rule = rule, .strength = strength},
          random);
    }
  }
}

TEST(DecayedLinearAttention, InPlaceHasTheSameBits) {
  for (const Rule rule : kRules) {
    for (const auto& [length, width] : {std::pair(1, 16), {5, 16}, {40, 64}, {9, 1}}) {
      std::vector<Result> results;
      for (const bool in_place : {false, true}) {
        std::mt19937 random(6);
        DecayedLinearAttention op({.batch = 3,
                                   .length = length,
                                   .heads = 2,
                                   .key_dim = width,
                                   .value_dim = width,
                                   .rule = rule,
                                   .in_place = in_place},
                                  random);
        results.push_back(run_fast(op));
      }
      EXPECT_TRUE(results[0].y.same_bits(results[1].y));
      EXPECT_TRUE(results[0].state.same_bits(results[1].state));
    }
  }
}

TEST(DecayedLinearAttention, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(7);
  testing::Pool pool(4);
  for (const Rule rule : kRules) {
    for (const auto& [length, width] : {std::pair(100, 80), {1, 80}, {50, 1}}) {
      DecayedLinearAttention op(
          {.batch = 2, .length = length, .heads = 7, .key_dim = width, .value_dim = width, .rule = rule}, random);
      const Result one = run_fast(op);
      const Result many =
          op.run([&](const DecayedLinearAttentionArgs& args) { decayed_linear_attention(args, pool.parallel_for()); });
      EXPECT_TRUE(one.y.same_bits(many.y) && one.state.same_bits(many.state));
    }
  }
}

TEST(DecayedLinearAttention, NaNIsNotSwallowed) {
  std::mt19937 random(8);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [length, width] : {std::pair<std::size_t, std::size_t>(1, 16), {40, 64}, {3, 1}}) {
    const std::size_t count = length * width;
    std::vector<float> ones(count, 1.0f), decays(count, -1.0f), y(count), state(width * width, 1.0f);
    decays[0] = nan;
    const std::int64_t lengths[] = {static_cast<std::int64_t>(length)};
    const auto size = static_cast<std::int64_t>(width);
    decayed_linear_attention({.batch = 1,
                              .length = lengths[0],
                              .heads = 1,
                              .key_dim = size,
                              .value_dim = size,
                              .decay_dim = size,
                              .q = ones.data(),
                              .k = ones.data(),
                              .v = ones.data(),
                              .log_decay = decays.data(),
                              .state = state.data(),
                              .lengths = lengths,
                              .y = y.data(),
                              .state_out = state.data()},
                             {});
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(state[0])) << length << " " << width;
  }
}

}  // namespace
}  // namespace hsm
