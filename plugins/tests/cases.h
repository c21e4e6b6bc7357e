// Calls of operators by example, from the families' cases.py, and what else tests ask of an operator.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "hsm_operators/common/opset.h"

namespace hsm::testing {

// Sizes by the names of the operator's dimensions.
using Sizes = std::map<std::string_view, std::int64_t>;

// The numbers of an input of which normally distributed ones would leave the operator's domain.
struct Range {
  std::size_t input;
  double least;
  double most;
};

// In place of a range: each row of the last axis starts with a number, and the rest is 0.
struct Start {
  std::size_t input;
  double first;
};

struct Case {
  std::string_view domain;
  std::string_view name;
  std::string_view label;
  Sizes sizes;
  std::vector<opset::AttributeValue> attributes;
  std::vector<Range> ranges;
  std::vector<Start> starts;
};

// Calls that a report describes. Generated.
std::span<const Case> typical_cases();

// One call of each operator, small enough for its definition; tests put their own sizes into it. Generated.
std::span<const Case> small_cases();

// A size, and what makes it satisfy one of the operator's rules, given the others.
struct Adjustment {
  std::size_t dimension;
  opset::Number (*value)(const opset::Values& values);
};

struct Facts {
  std::string_view domain;
  std::string_view name;
  opset::Number (*flops)(const opset::Values& values);
  std::span<const Adjustment> adjustments;
};

// Generated.
std::span<const Facts> facts();

// Throws for an operator that cases.py leaves out.
const Case& small_case(const opset::Operator& op);

// The sizes of a small case with `batch` rows of `length` tokens.
Sizes small_sizes(const opset::Operator& op, std::int64_t batch, std::int64_t length);

opset::Shape shape_of(const opset::Port& port, const Sizes& sizes);

// The element type of a port in a node whose T is `t`.
DType type_of(const opset::Port& port, DType t);

// In the order of the operator's dimensions, as opset::Values wants them.
std::vector<std::int64_t> in_order(const opset::Operator& op, const Sizes& sizes);

// Makes sizes satisfy the rules that say how.
void adjust(const opset::Operator& op, std::span<const opset::AttributeValue> attributes, Sizes& sizes);

// The operations of a call as its specification counts them.
double flops_of(const opset::Operator& op, std::span<const opset::AttributeValue> attributes, const Sizes& sizes);

// The least and the largest number that an int64 input may hold, at most 300 apart.
std::pair<std::int64_t, std::int64_t> row_range(const opset::Operator& op, const opset::Port& port,
                                                std::span<const opset::AttributeValue> attributes, const Sizes& sizes);

// Calls `set` with the index and the value of every element of a float input, drawn from the operator's domain.
void draw(const opset::Operator& op, std::size_t input, const opset::Shape& shape, std::mt19937& random,
          const std::function<void(std::size_t, double)>& set);

// How many elements of a row of an output, from its first, are specified: those of the tokens that the input `lengths`
// says are valid, and all where the output or the operator has no such thing.
std::size_t valid_elements(const opset::Operator& op, std::size_t output, const opset::Shape& shape,
                           std::span<const void* const> inputs, std::size_t row);

}  // namespace hsm::testing
