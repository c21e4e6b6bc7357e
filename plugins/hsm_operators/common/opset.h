// The operator set `hsm`, version 1, as data: the one table behind every native adapter.
//
// A port's dimensions are named by one letter each; equal letters are equal sizes. Outputs take their sizes from the
// inputs. Python holds the same table (exporter/hsm_export/opset), and a test compares the two.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_operators/common/types.h"

namespace hsm::opset {

inline constexpr std::string_view kDomain = "hsm";
inline constexpr int kVersion = 1;

// T is float32, float16 or bfloat16, the same for every port of a node that says T.
enum class ElementType : std::uint8_t { kT, kFloat32, kInt64 };

struct Port {
  std::string_view name;
  ElementType type;
  std::string_view dims;
};

enum class AttributeType : std::uint8_t { kInt, kInts };

struct Attribute {
  std::string_view name;
  AttributeType type;
};

struct Operator {
  std::string_view name;
  std::span<const Port> inputs;
  std::span<const Port> outputs;
  std::span<const Attribute> attributes;
};

using Shape = std::vector<std::int64_t>;

// Attribute values of one node; `ints` holds a single number for AttributeType::kInt.
struct AttributeValue {
  std::string_view name;
  std::vector<std::int64_t> ints;
};

// Returns all operators, in the order of the reference documentation.
std::span<const Operator> operators();

// Returns the operator of that name, or nullptr.
const Operator* find(std::string_view name);

// Returns what is wrong with a node's attributes, as a sentence, or nothing.
std::optional<std::string> check_attributes(const Operator& op, std::span<const AttributeValue> values);

// Checks input shapes (negative sizes are unknown) against the table and the attributes, and infers the output shapes.
// Returns what is wrong, as a sentence that names operator and input, or nothing.
std::optional<std::string> infer_shapes(const Operator& op, std::span<const AttributeValue> values,
                                        std::span<const Shape> inputs, std::vector<Shape>& outputs);

// Checks the values of `lengths` (0..T in every row) and `position` (not negative in rows that are not idle), because
// kernels address memory with them. `inputs` are in host memory, of the checked shapes. Returns what is wrong, as a
// sentence, or nothing.
std::optional<std::string> check_rows(const Operator& op, std::span<const Shape> shapes,
                                      std::span<const void* const> inputs);

}  // namespace hsm::opset
