#include <gmock/gmock.h>

#include <cmath>
#include <optional>

#include "hsm_operators/decayed_linear_attention/cuda.gen.h"
#include "tests/cuda/testing.h"

namespace hsm {
namespace {

using testing::Buffer;
using ::testing::Contains;
using testing::DeviceMemory;
using ::testing::Each;
using ::testing::HasSubstr;

enum Tactic { kScan, kSegments, kTactics };
enum class Rule { kInclusive, kExclusive, kDelta };
constexpr Rule kRules[] = {Rule::kInclusive, Rule::kExclusive, Rule::kDelta};

// For what launchers decide without launching.
constexpr cuda::Device kTuring{.sm = 75, .multiprocessors = 40, .shared_memory_per_block = 64 * 1024};
constexpr cuda::Device kHopper{.sm = 90, .multiprocessors = 132, .shared_memory_per_block = 227 * 1024};

struct Case {
  std::int64_t batch, length, heads, key_dim, value_dim;
  DType type = DType::kFloat32;
  Rule rule = Rule::kInclusive;
  bool per_head = false, in_place = false, full = false;
  std::size_t misalignment = 0;  // elements
};

std::string describe(const Case& c, int tactic) {
  return std::string(cuda::decayed_linear_attention_tactics()[static_cast<std::size_t>(tactic)]) +
         " B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " K=" + std::to_string(c.key_dim) + " V=" + std::to_string(c.value_dim) + " " + name_of(c.type) +
         (c.rule == Rule::kDelta       ? " delta"
          : c.rule == Rule::kExclusive ? " exclusive"
                                       : "") +
         (c.per_head ? " per head" : "") + (c.in_place ? " in place" : "") + (c.misalignment > 0 ? " misaligned" : "");
}

struct Result {
  Buffer y, state;

  bool same_bits(const Result& other) const { return y.same_bits(other.y) && state.same_bits(other.state); }
};

class DecayedLinearAttention {
 public:
  DecayedLinearAttention(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, tokens(own.key_dim)),
        k_(own.type, tokens(own.key_dim)),
        v_(own.type, tokens(own.value_dim)),
        log_decay_(own.type, tokens(decay_dim())),
        a_(own.type, tokens(own.key_dim)),
        b_(own.type, tokens(own.key_dim)),
        state_(DType::kFloat32, static_cast<std::size_t>(own.batch * own.heads * own.key_dim * own.value_dim)) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(own.key_dim));
    for (Buffer* buffer : {&q_, &k_, &b_}) buffer->randomize(random, scale);
    for (Buffer* buffer : {&v_, &state_, &log_decay_}) buffer->randomize(random);
    for (std::size_t i = 0; i < log_decay_.size(); ++i) {
      const bool forget = testing::uniform(random, 0, 50) == 0;
      log_decay_.set(i, forget ? -std::numeric_limits<float>::infinity() : -0.3f * std::fabs(log_decay_.at(i)));
    }
    // What a reads is taken out again, so that the state stays bounded.
    for (std::size_t i = 0; i < a_.size(); ++i) a_.set(i, -0.7f * b_.at(i));
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(own.full ? own.length : testing::uniform(random, 0, static_cast<int>(own.length)));
    }
    for (Buffer* buffer : {&q_, &k_, &a_, &b_}) poison_padding(*buffer, own.key_dim);
    poison_padding(v_, own.value_dim);
    poison_padding(log_decay_, decay_dim());
  }

  Result naive() {
    Result result{Buffer(case_.type, v_.size()), state_};
    result.y.poison();
    DecayedLinearAttentionArgs args = arguments();
    args.q = q_.data();
    args.k = k_.data();
    args.v = v_.data();
    args.log_decay = log_decay_.data();
    if (case_.rule == Rule::kDelta) args.a = a_.data(), args.b = b_.data();
    args.lengths = lengths_.data();
    args.y = result.y.data();
    args.state = args.state_out = static_cast<float*>(result.state.data());
    decayed_linear_attention_naive(args);
    for_padding(case_.value_dim, [&](std::size_t i) { result.y.set(i, 0.0f); });
    return result;
  }

  // Returns the result, or nothing if the launch failed, in which case the test has. Padding is zero.
  std::optional<Result> run(int tactic, const cuda::Device& device) {
    const std::size_t offset = case_.misalignment * size_of(case_.type);
    const DeviceMemory q(q_, offset), k(k_, offset), v(v_, offset), log_decay(log_decay_, offset), a(a_, offset),
        b(b_, offset), lengths(lengths_);
    DeviceMemory y(v_.size() * size_of(case_.type), offset), state(state_), other(state.bytes());
    DecayedLinearAttentionArgs args = arguments();
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.log_decay = log_decay.data();
    if (case_.rule == Rule::kDelta) args.a = a.data(), args.b = b.data();
    args.lengths = lengths.int64s();
    args.y = y.data();
    args.state = state.floats();
    DeviceMemory& state_out = case_.in_place ? state : other;
    args.state_out = state_out.floats();
    DeviceMemory workspace(cuda::decayed_linear_attention_workspace(args, tactic, device));
    testing::launched();
    testing::expect_launched(cuda::decayed_linear_attention_launch(args, tactic, device, workspace.data(), nullptr),
                             describe(case_, tactic));
    if (::testing::Test::HasFatalFailure()) return std::nullopt;
    Result result{Buffer(case_.type, v_.size()), state_};
    y.fetch(result.y);
    state_out.fetch(result.state);
    return result;
  }

  // Sizes alone, and pointers that nobody reads where their absence means something.
  DecayedLinearAttentionArgs arguments() const {
    const void* const present = case_.rule == Rule::kDelta ? &case_ : nullptr;
    return {.batch = case_.batch,
            .length = case_.length,
            .heads = case_.heads,
            .key_dim = case_.key_dim,
            .value_dim = case_.value_dim,
            .decay_dim = decay_dim(),
            .exclusive = case_.rule == Rule::kExclusive,
            .type = case_.type,
            .a = present,
            .b = present};
  }

 private:
  std::int64_t decay_dim() const { return case_.per_head ? 1 : case_.key_dim; }

  void poison_padding(Buffer& buffer, std::int64_t width) const {
    for_padding(width, [&](std::size_t i) { buffer.set(i, std::numeric_limits<float>::quiet_NaN()); });
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

// Runs a case with every tactic that supports it, in one order of threads; returns how many did.
int expect_definition(const Case& c, std::mt19937& random, const std::string& order = "") {
  DecayedLinearAttention op(c, random);
  const Result expected = op.naive();
  const auto sum = static_cast<double>(c.length + c.key_dim);
  int run = 0;
  for (int tactic = 0; tactic < kTactics; ++tactic) {
    if (!cuda::decayed_linear_attention_supports(op.arguments(), tactic, testing::device())) continue;
    const std::optional<Result> actual = op.run(tactic, testing::device());
    if (!actual.has_value()) return run;
    const std::string what = describe(c, tactic) + " " + order;
    testing::expect_close(actual->y, expected.y, sum, "y " + what);
    testing::expect_close(actual->state, expected.state, sum, "state " + what);
    ++run;
    if (::testing::Test::HasFatalFailure()) return run;
  }
  return run;
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t widths[] = {1, 2, 3, 7, 8, 16, 17, 31, 33};
  constexpr std::int64_t lengths[] = {1, 1, 2, 7, 8, 9, 17, 31};
  return {.batch = testing::uniform(random, 1, 2),
          .length = lengths[testing::uniform(random, 0, std::size(lengths) - 1)],
          .heads = testing::uniform(random, 1, 3),
          .key_dim = widths[testing::uniform(random, 0, std::size(widths) - 1)],
          .value_dim = widths[testing::uniform(random, 0, std::size(widths) - 1)],
          .type = testing::kTypes[testing::uniform(random, 0, 2)],
          .rule = static_cast<Rule>(testing::uniform(random, 0, 2)),
          .per_head = testing::uniform(random, 0, 2) == 0,
          .in_place = testing::uniform(random, 0, 1) == 1,
          .misalignment = static_cast<std::size_t>(testing::uniform(random, 0, 3) == 0 ? 1 : 0)};
}

TEST(CudaDecayedLinearAttention, EveryTacticEqualsTheDefinition) {
  testing::in_every_order([](const std::string& order) {
    std::mt19937 random(1);
    for (int i = 0; i < 40; ++i) expect_definition(random_case(random), random, order);
  });
}

// Rows that end in the first segment, in a later one, at a border, and not at all.
TEST(CudaDecayedLinearAttention, SegmentsCarryTheState) {
  testing::in_every_order([](const std::string& order) {
    std::mt19937 random(2);
    for (const Rule rule : {Rule::kInclusive, Rule::kExclusive}) {
      for (const DType type : testing::kTypes) {
        for (const std::int64_t length : {128, 200, 331}) {
          const Case c{.batch = 3,
                       .length = length,
                       .heads = 1,
                       .key_dim = 5,
                       .value_dim = 6,
                       .type = type,
                       .rule = rule,
                       .per_head = length == 200,
                       .in_place = length != 331};
          EXPECT_EQ(expect_definition(c, random, order), 2);
        }
      }
    }
  });
}

// One key width for each instance, and several tiles of columns.
TEST(CudaDecayedLinearAttention, EveryKernelVariantEqualsTheDefinition) {
  std::mt19937 random(3);
  for (const std::int64_t keys : {64, 128, 129, 256}) {
    for (const Rule rule : kRules) {
      for (const std::int64_t values : {1, 20, 150}) {
        expect_definition({.batch = 1,
                           .length = 3,
                           .heads = 1,
                           .key_dim = keys,
                           .value_dim = values,
                           .type = testing::kTypes[values % 3],
                           .rule = rule,
                           .full = true},
                          random);
      }
    }
  }
  expect_definition({.batch = 1, .length = 128, .heads = 1, .key_dim = 130, .value_dim = 17, .full = true}, random);
}

TEST(CudaDecayedLinearAttention, IdleRowsKeepTheirState) {
  std::mt19937 random(4);
  for (const auto& [length, width] : {std::pair(1, 4), {9, 4}, {2, 1}, {130, 4}}) {
    for (const bool in_place : {false, true}) {
      // With batches of random lengths, 0 among them.
      for (int i = 0; i < 4; ++i) {
        expect_definition(
            {.batch = 4, .length = length, .heads = 1, .key_dim = width, .value_dim = width, .in_place = in_place},
            random);
      }
    }
  }
}

TEST(CudaDecayedLinearAttention, SameInputSameBits) {
  std::mt19937 random(5);
  for (const Rule rule : kRules) {
    DecayedLinearAttention op({.batch = 1,
                               .length = 200,
                               .heads = 2,
                               .key_dim = 6,
                               .value_dim = 18,
                               .type = DType::kBFloat16,
                               .rule = rule,
                               .full = true},
                              random);
    for (int tactic = 0; tactic < kTactics; ++tactic) {
      if (!cuda::decayed_linear_attention_supports(op.arguments(), tactic, testing::device())) continue;
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

TEST(CudaDecayedLinearAttention, EachTacticLaunchesItsKernels) {
  std::mt19937 random(6);
  DecayedLinearAttention op({.batch = 1, .length = 128, .heads = 1, .key_dim = 4, .value_dim = 4}, random);
  const auto kernels = [&](int tactic) {
    op.run(tactic, testing::device());
    return testing::launched();
  };
  const auto scan = kernels(kScan);
  if (scan.empty()) GTEST_SKIP() << "a GPU keeps no log";
  EXPECT_THAT(scan, Each(HasSubstr("decayed_scan")));
  EXPECT_THAT(kernels(kSegments), Contains(HasSubstr("decayed_carry")));
  DecayedLinearAttention numbers({.batch = 1, .length = 3, .heads = 5, .key_dim = 1, .value_dim = 1}, random);
  numbers.run(kScan, testing::device());
  EXPECT_THAT(testing::launched(), Each(HasSubstr("decayed_numbers")));
}

TEST(CudaDecayedLinearAttention, DividesLongSequencesOfFewHeads) {
  DecayedLinearAttentionArgs args{
      .batch = 1, .length = 4096, .heads = 16, .key_dim = 128, .value_dim = 128, .decay_dim = 128};
  EXPECT_EQ(cuda::decayed_linear_attention_default_tactic(args, kHopper), kSegments);
  args.length = 1;
  EXPECT_EQ(cuda::decayed_linear_attention_default_tactic(args, kHopper), kScan);
  args.length = 4096;
  args.batch = 32;
  EXPECT_EQ(cuda::decayed_linear_attention_default_tactic(args, kHopper), kScan);
  args.batch = 1;
  args.a = args.b = &args;
  EXPECT_EQ(cuda::decayed_linear_attention_default_tactic(args, kHopper), kScan);
  EXPECT_FALSE(cuda::decayed_linear_attention_supports(args, kSegments, kHopper));
  EXPECT_TRUE(cuda::decayed_linear_attention_supports(args, kScan, kTuring));
  args.key_dim = 257;
  EXPECT_FALSE(cuda::decayed_linear_attention_supports(args, kScan, kHopper));
}

TEST(CudaDecayedLinearAttention, WorkspaceOfTheMaximumCoversSmallerShapes) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const auto draw = [&](int most) { return std::int64_t{1} << testing::uniform(random, 0, most); };
    const DecayedLinearAttentionArgs large{
        .batch = draw(6), .length = draw(14), .heads = draw(5), .key_dim = draw(8), .value_dim = draw(8)};
    DecayedLinearAttentionArgs small = large;
    small.batch = std::max<std::int64_t>(large.batch / draw(3), 1);
    small.length = std::max<std::int64_t>(large.length / draw(8), 1);
    for (int tactic = 0; tactic < kTactics; ++tactic) {
      EXPECT_LE(cuda::decayed_linear_attention_workspace(small, tactic, kHopper),
                cuda::decayed_linear_attention_workspace(large, tactic, kHopper));
    }
  }
}

TEST(CudaDecayedLinearAttention, EmptyInputsLaunchNothing) {
  testing::launched();
  const DecayedLinearAttentionArgs empty{
      .batch = 0, .length = 4, .heads = 2, .key_dim = 8, .value_dim = 8, .decay_dim = 8};
  EXPECT_EQ(cuda::decayed_linear_attention_launch(empty, kScan, testing::device(), nullptr, nullptr), 0);
  EXPECT_TRUE(testing::launched().empty());
}

}  // namespace
}  // namespace hsm
