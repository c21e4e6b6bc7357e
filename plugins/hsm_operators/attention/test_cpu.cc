#include <cmath>

#include "hsm_operators/attention/args.gen.h"
#include "hwy/targets.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using testing::Buffer;

enum class Kind { kWhole, kCached, kRing };

struct Case {
  std::int64_t batch, length, heads, key_heads, dim, value_dim;
  std::int64_t keys = 0;  // of whole sequences; else slots
  DType type = DType::kFloat32;
  Kind kind = Kind::kWhole;
  bool causal = true;
  std::int64_t window = 0;
  bool in_place = false;
  std::int64_t most_before = 0;  // tokens that came before, at most
  bool relative = false;
};

std::string describe(const Case& c) {
  std::string text;
  for (const auto& [name, number] : {std::pair("B", c.batch),
                                     {"T", c.length},
                                     {"H", c.heads},
                                     {"G", c.key_heads},
                                     {"d", c.dim},
                                     {"e", c.value_dim},
                                     {"S", c.keys},
                                     {"window", c.window},
                                     {"before", c.most_before}}) {
    text += std::string(name) + "=" + std::to_string(number) + " ";
  }
  return text + name_of(c.type) + (c.causal ? " causal" : "") + (c.in_place ? " in place" : "") +
         (c.relative ? " relative" : "") +
         (c.kind == Kind::kWhole    ? " whole"
          : c.kind == Kind::kCached ? " cached"
                                    : " ring");
}

struct Result {
  Buffer y, keys, values, relatives;
};

class Attention {
 public:
  Attention(const Case& own, std::mt19937& random)
      : case_(own),
        q_(own.type, count(own.length, own.heads, own.dim)),
        k_(own.type, count(fresh(), own.key_heads, own.dim)),
        v_(own.type, count(fresh(), own.key_heads, own.value_dim)),
        keys_(own.type, count(own.keys, own.key_heads, own.dim)),
        values_(own.type, count(own.keys, own.key_heads, own.value_dim)),
        relative_(own.type, count(own.length, own.heads, own.dim)),
        relative_cache_(own.type, count(own.kind == Kind::kCached ? own.keys : 0, own.heads, own.dim)),
        relative_keys_(own.type, static_cast<std::size_t>(distances() * own.heads * own.dim)) {
    for (Buffer* buffer : {&q_, &k_, &v_, &keys_, &values_, &relative_, &relative_cache_, &relative_keys_}) {
      buffer->randomize(random);
    }
    const std::int64_t most = own.kind == Kind::kWhole ? own.keys : own.length;
    for (std::int64_t b = 0; b < own.batch; ++b) {
      lengths_.push_back(b + 1 == own.batch ? most : testing::uniform(random, 0, static_cast<int>(most)));
      position_.push_back(testing::uniform(random, 0, static_cast<int>(own.most_before)));
    }
    poison();
  }

  template <typename Run>
  Result run(Run run) {
    Result result{Buffer(case_.type, count(case_.length, case_.heads, case_.value_dim)), keys_, values_,
                  relative_cache_};
    result.y.poison();
    const auto before = [&](Buffer& kept, Buffer& out) { return case_.in_place ? out.data() : kept.data(); };
    AttentionArgs args{.batch = case_.batch,
                       .length = case_.length,
                       .heads = case_.heads,
                       .dim = case_.dim,
                       .keys = case_.keys,
                       .key_heads = case_.key_heads,
                       .value_dim = case_.value_dim,
                       .distances = distances(),
                       .slots = case_.keys,
                       .capacity = case_.keys,
                       .causal = case_.causal,
                       .window = case_.window,
                       .scale = 1.0f / std::sqrt(static_cast<float>(case_.dim)),
                       .type = case_.type,
                       .q = q_.data(),
                       .k = k_.data(),
                       .v = v_.data(),
                       .position = position_.data(),
                       .lengths = lengths_.data(),
                       .y = result.y.data()};
    if (case_.kind == Kind::kCached) {
      args.key_cache = before(keys_, result.keys), args.value_cache = before(values_, result.values);
      args.key_cache_out = result.keys.data(), args.value_cache_out = result.values.data();
      if (case_.relative) {
        args.relative = relative_.data(), args.relative_cache = before(relative_cache_, result.relatives);
        args.relative_cache_out = result.relatives.data();
      }
    } else if (case_.kind == Kind::kRing) {
      args.key_ring = before(keys_, result.keys), args.value_ring = before(values_, result.values);
      args.key_ring_out = result.keys.data(), args.value_ring_out = result.values.data();
    }
    if (case_.relative && case_.kind != Kind::kCached) args.relative_keys = relative_keys_.data();
    run(args);
    if (case_.kind != Kind::kWhole) {
      for_rows(case_.length, case_.heads * case_.value_dim, lengths_, [&](std::size_t i) { result.y.set(i, 0.0f); });
      for (Buffer* buffer : {&result.keys, &result.values, &result.relatives}) clear_poison(*buffer);
    }
    return result;
  }

 private:
  std::int64_t distances() const {
    if (case_.kind == Kind::kRing) return case_.window + 1;
    return case_.causal ? std::max(case_.length, case_.keys) : case_.length + case_.keys;
  }
  std::int64_t fresh() const { return case_.kind == Kind::kWhole ? case_.keys : case_.length; }
  std::size_t count(std::int64_t tokens, std::int64_t heads, std::int64_t width) const {
    return static_cast<std::size_t>(case_.batch * tokens * heads * width);
  }

  // Elements of the tokens from each row's `first` on.
  template <typename Body>
  void for_rows(std::int64_t tokens, std::int64_t width, const std::vector<std::int64_t>& first, Body body) const {
    for (std::int64_t b = 0; b < case_.batch; ++b) {
      for (std::int64_t i = std::min(first[static_cast<std::size_t>(b)], tokens) * width; i < tokens * width; ++i) {
        body(static_cast<std::size_t>(b * tokens * width + i));
      }
    }
  }

  // Padding and slots that were never written must not be looked at.
  void poison() {
    const auto with = [&](Buffer& buffer, std::int64_t tokens, std::int64_t width,
                          const std::vector<std::int64_t>& first) {
      for_rows(tokens, width, first, [&](std::size_t i) { buffer.set(i, std::numeric_limits<float>::quiet_NaN()); });
    };
    with(k_, fresh(), case_.key_heads * case_.dim, lengths_);
    with(v_, fresh(), case_.key_heads * case_.value_dim, lengths_);
    if (case_.kind == Kind::kWhole) return;
    with(keys_, case_.keys, case_.key_heads * case_.dim, position_);
    with(values_, case_.keys, case_.key_heads * case_.value_dim, position_);
    with(relative_, case_.length, case_.heads * case_.dim, lengths_);
    if (case_.kind == Kind::kCached) with(relative_cache_, case_.keys, case_.heads * case_.dim, position_);
  }

  static void clear_poison(Buffer& buffer) {
    for (std::size_t i = 0; i < buffer.size(); ++i) {
      if (std::isnan(buffer.at(i))) buffer.set(i, 0.0f);
    }
  }

  Case case_;
  Buffer q_, k_, v_, keys_, values_;
  Buffer relative_, relative_cache_, relative_keys_;
  std::vector<std::int64_t> lengths_, position_;
};

Result run_fast(Attention& op) {
  return op.run([](const AttentionArgs& args) { attention(args, {}); });
}

void expect_equal(const Case& c, std::mt19937& random) {
  Attention op(c, random);
  const Result fast = run_fast(op);
  const Result naive = op.run(attention_naive);
  testing::expect_close(fast.y, naive.y, static_cast<double>(c.keys + c.length + c.dim), "y " + describe(c));
  EXPECT_TRUE(fast.keys.same_bits(naive.keys)) << describe(c);
  EXPECT_TRUE(fast.values.same_bits(naive.values)) << describe(c);
  EXPECT_TRUE(fast.relatives.same_bits(naive.relatives)) << describe(c);
}

Case random_case(std::mt19937& random) {
  constexpr std::int64_t widths[] = {1, 2, 3, 5, 8, 15, 16, 17, 32, 64, 65};
  constexpr std::int64_t lengths[] = {1, 2, 3, 6, 7, 8, 17, 33, 64, 65, 130, 200};
  const auto width = [&] { return widths[testing::uniform(random, 0, std::size(widths) - 1)]; };
  Case c{.batch = testing::uniform(random, 0, 2),
         .length = lengths[testing::uniform(random, 0, std::size(lengths) - 1)],
         .heads = 0,
         .key_heads = testing::uniform(random, 1, 3),
         .dim = width(),
         .value_dim = width(),
         .type = testing::kTypes[testing::uniform(random, 0, 2)],
         .kind = static_cast<Kind>(testing::uniform(random, 0, 2)),
         .causal = testing::uniform(random, 0, 1) == 1,
         .in_place = testing::uniform(random, 0, 1) == 1,
         .relative = testing::uniform(random, 0, 1) == 1};
  c.heads = c.key_heads * testing::uniform(random, 1, 3);
  const int before = testing::uniform(random, 0, 1) == 0 ? 5 : 300;
  switch (c.kind) {
    case Kind::kWhole:
      c.keys = testing::uniform(random, 0, 1) == 0 ? c.length : testing::uniform(random, 1, 300);
      c.window = testing::uniform(random, 0, 1) * testing::uniform(random, 1, 150);
      c.in_place = false;
      break;
    case Kind::kCached:
      c.most_before = before;
      c.keys = c.length + before + testing::uniform(random, 0, 3);
      break;
    case Kind::kRing:
      c.most_before = before;
      c.window = testing::uniform(random, 1, 150);
      c.keys = c.window + testing::uniform(random, 0, 5);
      break;
  }
  return c;
}

TEST(Attention, FastEqualsTheDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 400 && !::testing::Test::HasFailure(); ++i) expect_equal(random_case(random), random);
}

TEST(Attention, EveryInstructionSetEqualsTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (int i = 0; i < 60 && !::testing::Test::HasFailure(); ++i) expect_equal(random_case(random), random);
  }
  hwy::SetSupportedTargetsForTest(0);
}

// More keys than a part has.
TEST(Attention, LongCachesAreReadInParts) {
  std::mt19937 random(3);
  for (const DType type : testing::kTypes) {
    expect_equal({.batch = 2,
                  .length = 1,
                  .heads = 16,
                  .key_heads = 8,
                  .dim = 64,
                  .value_dim = 64,
                  .keys = 1500,
                  .type = type,
                  .kind = Kind::kCached,
                  .most_before = 1400},
                 random);
  }
}

TEST(Attention, InPlaceHasTheSameBits) {
  for (const Kind kind : {Kind::kCached, Kind::kRing}) {
    for (const std::int64_t length : {1, 5, 40}) {
      std::vector<Result> results;
      for (const bool in_place : {false, true}) {
        std::mt19937 random(4);
        Attention op({.batch = 3,
                      .length = length,
                      .heads = 4,
                      .key_heads = 2,
                      .dim = 16,
                      .value_dim = 8,
                      .keys = 60,
                      .kind = kind,
                      .window = 30,
                      .in_place = in_place,
                      .most_before = 20},
                     random);
        results.push_back(run_fast(op));
      }
      EXPECT_TRUE(results[0].y.same_bits(results[1].y));
      EXPECT_TRUE(results[0].keys.same_bits(results[1].keys));
      EXPECT_TRUE(results[0].values.same_bits(results[1].values));
    }
  }
}

TEST(Attention, ThreadsDoNotChangeTheBits) {
  std::mt19937 random(5);
  testing::Pool pool(4);
  for (const Kind kind : {Kind::kWhole, Kind::kCached}) {
    for (const std::int64_t length : {1, 300}) {
      Attention op({.batch = 2,
                    .length = length,
                    .heads = 8,
                    .key_heads = 8,
                    .dim = 64,
                    .value_dim = 64,
                    .keys = 1300,
                    .kind = kind,
                    .most_before = 1000},
                   random);
      const Result one = run_fast(op);
      const Result many = op.run([&](const AttentionArgs& args) { attention(args, pool.parallel_for()); });
      EXPECT_TRUE(one.y.same_bits(many.y) && one.keys.same_bits(many.keys) && one.values.same_bits(many.values));
    }
  }
}

TEST(Attention, NaNIsNotSwallowed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t length : {1, 40}) {
    for (const bool in_query : {true, false}) {
      std::vector<float> q(length * 8, 1.0f), k(length * 8, 1.0f), v(length * 8, 1.0f), y(length * 8);
      (in_query ? q : k)[0] = nan;
      const std::int64_t lengths[] = {static_cast<std::int64_t>(length)};
      attention({.batch = 1,
                 .length = lengths[0],
                 .heads = 1,
                 .dim = 8,
                 .keys = lengths[0],
                 .key_heads = 1,
                 .value_dim = 8,
                 .causal = true,
                 .scale = 1.0f,
                 .q = q.data(),
                 .k = k.data(),
                 .v = v.data(),
                 .lengths = lengths,
                 .y = y.data()},
                {});
      EXPECT_TRUE(std::isnan(y[0])) << length << in_query;
    }
  }
}

// Scores far beyond what exp can hold.
TEST(Attention, LargeScoresNeitherOverflowNorVanish) {
  for (const std::size_t length : {1, 200}) {
    std::vector<float> q(length, 100.0f), k(length), v(length), y(length);
    for (std::size_t i = 0; i < length; ++i) k[i] = v[i] = static_cast<float>(i);
    const std::int64_t lengths[] = {static_cast<std::int64_t>(length)};
    attention({.batch = 1,
               .length = lengths[0],
               .heads = 1,
               .dim = 1,
               .keys = lengths[0],
               .key_heads = 1,
               .value_dim = 1,
               .causal = true,
               .scale = 1.0f,
               .q = q.data(),
               .k = k.data(),
               .v = v.data(),
               .lengths = lengths,
               .y = y.data()},
              {});
    for (std::size_t i = 0; i < length; ++i) EXPECT_FLOAT_EQ(y[i], v[i]);
  }
}

}  // namespace
}  // namespace hsm
