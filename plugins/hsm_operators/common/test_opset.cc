// What a file or a caller could choose to break the arithmetic on sizes is refused, with a sentence.
#include "hsm_operators/common/opset.h"

#include <gtest/gtest.h>

#include <limits>

namespace hsm::opset {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

// Returns what is wrong with a node, "" when nothing is.
std::string problem(std::string_view name, const std::vector<AttributeValue>& attributes,
                    const std::vector<Shape>& shapes) {
  const Operator& op = *find(name);
  if (const auto refusal = check_attributes(op, attributes)) return *refusal;
  std::vector<Shape> outputs;
  return infer_shapes(op, attributes, shapes, outputs).value_or("");
}

TEST(Opset, SizesWhoseProductsOverflowAreRefused) {
  const std::vector<AttributeValue> shifts{{"shifts", {1}}};
  const std::string sentence = "TokenShift: the sizes (B,T,D) of x multiply to more than 2^59";
  EXPECT_EQ(problem("TokenShift", shifts, {{1 << 20, 1 << 20, 1 << 20}}), sentence);
  EXPECT_EQ(problem("TokenShift", shifts, {{kMax, kMax, kMax}}), sentence);
  EXPECT_EQ(problem("TokenShift", shifts, {{0, kMax, 2}}), sentence) << "an empty tensor has sizes, too";
  EXPECT_EQ(problem("TokenShift", shifts, {{-1, kMax, -1}}), sentence) << "-1 is a size that is not known yet";
  EXPECT_EQ(problem("TokenShift", shifts, {{0, 1, kMax >> 4}}), "");
  EXPECT_EQ(problem("ExpertMatMul", {{"k", {1}}}, {{1, 1 << 30, 1}, {1, 1 << 30, 1, 2}, {1, 2, 1, 1 << 30}}),
            "ExpertMatMul: the sizes (B,T,H,f) of y multiply to more than 2^59");
}

TEST(Opset, HeadWidthsThatNoHeadHasAreRefused) {
  const std::vector<AttributeValue> flags{{"normalize", {1}}, {"output_norm", {0}}};
  for (const std::int64_t d : {std::int64_t{0}, std::int64_t{1} << 32, kMax}) {
    const Shape shape{1, 1, 1, d};
    EXPECT_EQ(problem("TaylorShift", flags, {shape, shape, shape, {1}}),
              "TaylorShift: head width d must be from 1 to 2^20, got " + std::to_string(d));
  }
}

TEST(Opset, OnlyWhatHasNoRingReadsAhead) {
  EXPECT_EQ(problem("TokenShift", {{"shifts", {0, -3}}}, {{1, 2, 4}}), "");
  EXPECT_EQ(problem("TokenShiftCached", {{"shifts", {0, 0}}}, {{1, 1, 4}, {1, 1, 4}, {1}, {1}}), "");
  EXPECT_EQ(problem("TokenShiftCached", {{"shifts", {0, -3}}}, {{1, 2, 4}, {1, 9, 4}, {1}, {1}}),
            "TokenShiftCached: attribute shifts must be at least 0, got -3");
  EXPECT_EQ(problem("TokenShiftCached", {{"shifts", {0}}}, {{1, 1, 4}, {1, 0, 4}, {1}, {1}}),
            "TokenShiftCached: rows of the ring R must be at least 1, got 0");
}

TEST(Opset, AttributesThatDoNotFitTheShapesAreRefused) {
  EXPECT_EQ(problem("ShiftMixCached", {{"shifts", {kMax}}}, {{1, 1, 4}, {4}, {4}, {1, 8, 4}, {1}, {1}}),
            "ShiftMixCached: the ring holds R = 8 rows, fewer than the largest shift " + std::to_string(kMax));
  EXPECT_EQ(problem("ExpertMatMul", {{"k", {kMax}}}, {{1, 1, 2}, {1, 1, 1, 4}, {1, 4, 2, 2}}),
            "ExpertMatMul: k = " + std::to_string(kMax) + " exceeds the number of experts E = 4");
  EXPECT_EQ(problem("ExpertMatMul", {{"k", {1}}}, {{1, 0, 2}, {1, 0, 1 << 20, 8}, {1 << 20, 8, 2, 2}}),
            "ExpertMatMul: the H heads must have at most 2^22 experts in all");
}

TEST(Opset, NoMoreExpertsAreTakenWhereThereIsNoHead) {
  EXPECT_EQ(problem("ExpertMatMul", {{"k", {1}}}, {{1, 1, 2}, {1, 1, 0, 1 << 23}, {0, 1 << 23, 2, 2}}),
            "ExpertMatMul: the H heads must have at most 2^22 experts in all");
}

TEST(Opset, RulesWaitForSizesThatAreNotKnown) {
  const std::vector<AttributeValue> shifts{{"shifts", {1, 9}}};
  EXPECT_EQ(problem("TokenShiftCached", shifts, {{-1, -1, -1}, {-1, -1, -1}, {-1}, {-1}}), "");
  EXPECT_EQ(problem("TokenShiftCached", shifts, {{-1, -1, -1}, {-1, 8, -1}, {-1}, {-1}}),
            "TokenShiftCached: the ring holds R = 8 rows, fewer than the largest shift 9");
}

TEST(Opset, AttributesMustBeInTheirRanges) {
  const auto refusal = [](std::string_view op, const std::vector<AttributeValue>& values) {
    return check_attributes(*find(op), values).value_or("");
  };
  EXPECT_EQ(refusal("TaylorShift", {{"normalize", {1}}}), "TaylorShift: attribute output_norm is missing");
  EXPECT_EQ(refusal("TaylorShift", {{"normalize", {-1}}, {"output_norm", {0}}}),
            "TaylorShift: attribute normalize must be 0 or 1, got -1");
  EXPECT_EQ(refusal("ShiftMixCached", {{"shifts", {3, -1}}}),
            "ShiftMixCached: attribute shifts must be at least 0, got -1");
  EXPECT_EQ(refusal("ExpertMatMul", {{"k", {1, 2}}}), "ExpertMatMul: attribute k must be a single integer");
}

TEST(Opset, ARowOfTaylorShiftMaskedHasAToken) {
  const std::vector<AttributeValue> flags{{"normalize", {1}}, {"output_norm", {0}}};
  const std::vector<Shape> shapes{{2, 3, 1, 4}, {2, 3, 1, 4}, {2, 3, 1, 4}, {1}, {2}};
  const auto refusal = [&](std::int64_t first, std::int64_t second) {
    const std::int64_t lengths[] = {first, second};
    const std::vector<const void*> inputs{nullptr, nullptr, nullptr, nullptr, lengths};
    return check_rows(*find("TaylorShiftMasked"), flags, shapes, inputs).value_or("");
  };
  EXPECT_EQ(refusal(1, 3), "");
  EXPECT_EQ(refusal(3, 0), "TaylorShiftMasked: input lengths is 0 in row 1, but must be from 1 to T = 3");
}

TEST(Opset, RowsThatPointOutsideTheBuffersAreRefused) {
  const Operator& op = *find("TokenShiftCached");
  const std::vector<AttributeValue> attributes{{"shifts", {1}}};
  const std::vector<Shape> shapes{{1, 3, 4}, {1, 8, 4}, {1}, {1}};
  const auto refusal = [&](std::int64_t position, std::int64_t length) {
    const std::vector<const void*> inputs{nullptr, nullptr, &position, &length};
    return check_rows(op, attributes, shapes, inputs).value_or("");
  };
  EXPECT_EQ(refusal(5, 4), "TokenShiftCached: input lengths is 4 in row 0, but must be from 0 to T = 3");
  EXPECT_EQ(refusal(5, -kMax - 1).find("TokenShiftCached: input lengths is -9223372036854775808"), 0u);
  EXPECT_EQ(refusal(-1, 1), "TokenShiftCached: input position is -1 in row 0, but must be from 0 to 2^63 - 1 - T");
  EXPECT_NE(refusal(kMax, 3), "");
  EXPECT_EQ(refusal(kMax - 3, 3), "");
  EXPECT_EQ(refusal(-kMax, 0), "") << "the position of an idle row is not looked at";
}

}  // namespace
}  // namespace hsm::opset
