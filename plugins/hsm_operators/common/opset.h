// Operators as data: the table behind every native adapter, and what is checked against it.
//
// `python -m hsm_operators.generate` writes the table (opset.gen.cc) from the specifications; nothing here, and nothing
// in an adapter, knows an operator by name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_operators/common/expression.h"
#include "hsm_operators/common/types.h"

namespace hsm::opset {

using Shape = std::vector<std::int64_t>;

// The value of one attribute of a node, in the member that its type names; kInt and kFloat are lists of one number.
struct AttributeValue {
  std::string_view name;
  std::vector<std::int64_t> ints;
  std::vector<float> floats = {};
};

// What the table's expressions read of one node.
class Values {
 public:
  // `sizes` in the order of the operator's dimensions, negative where unknown; `attributes` in the table's order.
  Values(std::span<const std::int64_t> sizes, std::span<const AttributeValue> attributes)
      : sizes_(sizes), attributes_(attributes) {}

  Number size(std::size_t dimension) const {
    return sizes_[dimension] < 0 ? Number::undefined() : Number(sizes_[dimension]);
  }
  Number number(std::size_t attribute) const { return attributes_[attribute].ints.front(); }
  Numbers list(std::size_t attribute) const { return attributes_[attribute].ints; }

 private:
  std::span<const std::int64_t> sizes_;
  std::span<const AttributeValue> attributes_;
};

// T is float32, float16 or bfloat16, the same for every port of a node that says T.
enum class ElementType : std::uint8_t { kT, kFloat32, kInt64, kBool, kUInt8 };

// A size that the shapes name; equal dimensions are equal sizes.
struct Dimension {
  std::string_view name;
  std::string_view words;
  std::int64_t least;
  std::int64_t most;
};

// Some of an operator's dimensions: pointers into its own list.
using DimensionList = std::span<const Dimension* const>;

// The values that an int64 input may have.
struct RowRange {
  Number (*least)(const Values& values);
  Number (*most)(const Values& values);
  std::string (*words)(const Values& values);
  int where;  // index of another int64 input: the range holds where that one is positive; -1: everywhere
  // Index of another int64 input: a number may be larger than `most` by what that one is below its largest; -1: none.
  int valid = -1;
};

struct Port {
  std::string_view name;
  ElementType type;
  DimensionList dims;
  const RowRange* rows = nullptr;
};

enum class AttributeType : std::uint8_t { kInt, kInts, kFloat };

struct Attribute {
  std::string_view name;
  AttributeType type;
  std::int64_t least;  // of each number
  std::int64_t most;
};

// What sizes and attributes owe each other.
struct Rule {
  DimensionList reads;  // checked when all of them are known
  bool (*holds)(const Values& values);
  std::string (*sentence)(const Values& values);
};

// An input and an output, by index, that may be one buffer.
struct InPlacePair {
  int input;
  int output;
};

// Lists an operator's pairs in arrays from `new int[]`, and returns how many there are: the form that ONNX Runtime
// wants, whose callback gets no context, so that each row of the table needs a function of its own.
using ListInPlace = std::size_t (*)(int** inputs, int** outputs);

template <const auto& pairs>
std::size_t list_in_place(int** inputs, int** outputs) {
  *inputs = new int[std::size(pairs)];
  *outputs = new int[std::size(pairs)];
  for (std::size_t i = 0; i < std::size(pairs); ++i) {
    (*inputs)[i] = pairs[i].input;
    (*outputs)[i] = pairs[i].output;
  }
  return std::size(pairs);
}

// Outputs take their sizes from the inputs. The names end with a zero, as C wants them.
struct Operator {
  std::string_view domain;
  int version;                      // of the domain; nodes of the versions before have the same meaning
  std::string_view plugin_version;  // of TensorRT's plugin
  std::string_view name;
  std::span<const Dimension> dimensions;  // those of the inputs
  std::span<const Port> inputs;
  std::span<const Port> outputs;
  std::span<const Attribute> attributes;
  std::span<const Rule> rules;
  std::span<const InPlacePair> in_place;
  ListInPlace list_in_place = nullptr;  // null when there are none
};

// Sizes up to which no product that a kernel forms of them leaves 63 bits, not even in bytes or padded to vectors.
inline constexpr std::int64_t kMostElements = std::int64_t{1} << 59;

// Returns all operators, in the order of the specifications. Generated.
std::span<const Operator> operators();

// Returns the first operator of that name, or nullptr.
const Operator* find(std::string_view name);

// Returns the index of the first input of type T; the number of inputs where there is none.
inline std::size_t first_t(const Operator& op) {
  return static_cast<std::size_t>(std::ranges::find(op.inputs, ElementType::kT, &Port::type) - op.inputs.begin());
}

// Returns an operator's row in a table whose rows have its `domain` and `name`, or nullptr.
template <typename Row>
const Row* row_of(std::span<const Row> rows, const Operator& op) {
  const auto found =
      std::ranges::find_if(rows, [&](const Row& row) { return row.name == op.name && row.domain == op.domain; });
  return found == rows.end() ? nullptr : &*found;
}

// Returns what is wrong with a node's attributes, which must be in the table's order, as a sentence, or nothing.
std::optional<std::string> check_attributes(const Operator& op, std::span<const AttributeValue> values);

// Checks input shapes (negative sizes are unknown) against the table and the attributes, which were checked, and infers
// the output shapes. Returns what is wrong, as a sentence that names operator and input, or nothing.
std::optional<std::string> infer_shapes(const Operator& op, std::span<const AttributeValue> values,
                                        std::span<const Shape> inputs, std::vector<Shape>& outputs);

// Checks the values of the int64 inputs against their ranges, because kernels address memory with them. `inputs` are in
// host memory, of the checked shapes. Returns what is wrong, as a sentence, or nothing.
std::optional<std::string> check_rows(const Operator& op, std::span<const AttributeValue> values,
                                      std::span<const Shape> shapes, std::span<const void* const> inputs);

}  // namespace hsm::opset
