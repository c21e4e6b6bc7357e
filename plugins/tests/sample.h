// One call of any operator with random inputs, in the sizes of its small case: what adapters are tried with.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"
#include "tests/cases.h"
#include "tests/testing.h"

namespace hsm::testing {

class Sample {
 public:
  // `batch` rows of `length` tokens, T = `type`.
  Sample(const opset::Operator& op, DType type, std::int64_t batch, std::int64_t length, std::mt19937& random);

  const opset::Operator& op() const { return *op_; }
  DType type() const { return type_; }
  const std::vector<opset::AttributeValue>& attributes() const { return attributes_; }
  const std::vector<opset::Shape>& shapes() const { return shapes_; }
  const std::vector<Buffer>& inputs() const { return inputs_; }
  std::string name() const { return std::string(op_->name) + " " + name_of(type_); }

  opset::Shape shape_of(const opset::Port& port) const { return testing::shape_of(port, sizes_); }
  std::vector<const void*> sources() const;
  // Zeroed, because rows of idle tokens are not written.
  std::vector<Buffer> blank_outputs() const;

  // Sets the first number of an int64 input.
  void set(std::size_t input, std::int64_t value) { static_cast<std::int64_t*>(inputs_[input].data())[0] = value; }

 private:
  const opset::Operator* op_;
  DType type_;
  Sizes sizes_;
  std::vector<opset::AttributeValue> attributes_;
  std::vector<opset::Shape> shapes_;
  std::vector<Buffer> inputs_;
};

std::vector<void*> pointers(std::vector<Buffer>& buffers);

// An attribute's value that its range leaves out.
struct BadValue {
  std::size_t attribute;
  std::vector<opset::AttributeValue> values;  // of all attributes
  std::string sentence;                       // the table's
};

// Values below and above the ranges of an operator's attributes, one at a time.
std::vector<BadValue> bad_values(const opset::Operator& op);

// The inputs' shapes with one size one larger than a sample's.
struct ChangedShapes {
  std::vector<opset::Shape> shapes;
  std::string sentence;  // the table's; "" where it takes them
};

std::vector<ChangedShapes> changed_shapes(const Sample& sample);

// An int64 input whose first number its range leaves out, while the other rows' numbers are the largest that are taken.
struct BadRow {
  Sample sample;
  std::string sentence;
};

std::vector<BadRow> bad_rows(const opset::Operator& op, std::mt19937& random);

}  // namespace hsm::testing
