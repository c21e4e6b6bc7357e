// The numbers of rules compute as Python's do, and never overflow.
#include "hsm_operators/common/expression.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace hsm::opset {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

TEST(Number, DividesAsPythonDoes) {
  for (std::int64_t a = -9; a <= 9; ++a) {
    for (const std::int64_t b : {-4, -3, -1, 1, 2, 5}) {
      const auto quotient = static_cast<std::int64_t>(std::floor(static_cast<double>(a) / static_cast<double>(b)));
      EXPECT_TRUE(Number(a) / Number(b) == quotient) << a << " / " << b;
      EXPECT_TRUE(Number(a) % Number(b) == a - quotient * b) << a << " % " << b;
    }
  }
}

TEST(Number, ProductsBeyond64BitsAreExactAndBeyond125StayAtTheBound) {
  const Number large = Number(kMax) * Number(2);
  EXPECT_EQ(large.text(), "18446744073709551614");
  EXPECT_TRUE(large / Number(2) == kMax);
  EXPECT_TRUE(Number(kMin) * Number(kMin) > large);
  const Number bound = Number(kMax) * Number(kMax) * Number(kMax);
  EXPECT_TRUE(bound * bound == bound && bound + bound == bound && -bound - bound == -bound);
  EXPECT_TRUE(bound * Number(-1) == -bound && bound * -bound == -bound && bound * Number(0) == 0);
  EXPECT_EQ((-Number(kMin)).text(), "9223372036854775808");
  EXPECT_EQ(large.clamped(), kMax);
  EXPECT_EQ((-large).clamped(), kMin);
  EXPECT_EQ(Number(-7).clamped(), -7);
}

TEST(Number, NothingHoldsOfWhatIsUndefined) {
  const Number none = Number(1) / Number(0);
  for (const Number item : {none, none + 1_n, 1_n - none, none * 0_n, none % 2_n, -none, min_of(1_n, none)}) {
    EXPECT_FALSE(item == item || item != item || item < 1_n || item >= 1_n || static_cast<bool>(item));
    EXPECT_EQ(item.text(), "?");
  }
}

TEST(Number, ExtremesOfListsAndNumbers) {
  const std::vector<std::int64_t> list{3, -2, 8};
  EXPECT_TRUE(min_of(Numbers(list)) == -2 && max_of(Numbers(list)) == 8 && len_of(list) == 3);
  EXPECT_TRUE(min_of(1_n, Numbers(list), -5) == -5 && max_of(9_n, Numbers(list)) == 9);
  EXPECT_FALSE(max_of(Numbers()).is_defined());
  EXPECT_EQ(sentence("a ", 1_n, " and ", Numbers(list)), "a 1 and [3, -2, 8]");
}

}  // namespace
}  // namespace hsm::opset
