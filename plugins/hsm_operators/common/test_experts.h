// What the tests of all families with experts draw and expect.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "tests/testing.h"

namespace hsm::testing {

enum class Logits { kNormal, kTied, kMasked, kSaturated, kAllMasked };

inline float random_logit(Logits kind, std::mt19937& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (kind) {
    case Logits::kTied:
      return static_cast<float>(uniform(random, 0, 1));
    case Logits::kMasked:
      return uniform(random, 0, 1) == 0 ? -kInfinity : std::normal_distribution<float>()(random);
    case Logits::kSaturated:
      return uniform(random, 0, 1) == 0 ? -1e4f : 1e4f;
    case Logits::kAllMasked:
      return -kInfinity;
    case Logits::kNormal:
      break;
  }
  return std::normal_distribution<float>()(random);
}

inline Logits any_logits(std::mt19937& random) { return static_cast<Logits>(uniform(random, 0, 4)); }

// Returns `count` logits.
inline Buffer draw_logits(std::size_t count, Logits kind, std::mt19937& random) {
  Buffer logits(DType::kFloat32, count);
  for (std::size_t i = 0; i < count; ++i) logits.set(i, random_logit(kind, random));
  return logits;
}

inline void fill(Buffer& buffer, float value) {
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer.set(i, value);
}

// Puts NaN into one of a weight's `count` matrices: that of an expert that no token may use.
inline void poison_matrix(Buffer& weight, std::int64_t count, std::int64_t index) {
  const std::size_t matrix = weight.size() / static_cast<std::size_t>(count);
  for (std::size_t i = 0; i < matrix; ++i) {
    weight.set(static_cast<std::size_t>(index) * matrix + i, std::numeric_limits<float>::quiet_NaN());
  }
}

inline void expect_numbers(const Buffer& y, const std::string& what = "") {
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_FALSE(std::isnan(y.at(i))) << what;
}

inline void expect_zero(const Buffer& y, const std::string& what = "") {
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.at(i), 0.0f) << what;
}

template <typename T>
T any_of(std::span<const T> values, std::mt19937& random) {
  return values[static_cast<std::size_t>(uniform(random, 0, static_cast<int>(values.size()) - 1))];
}

inline std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

}  // namespace hsm::testing
