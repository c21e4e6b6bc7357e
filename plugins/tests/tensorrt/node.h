// A node of any operator with random tensors, its expected outputs, and the comparison: what a network would hold.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"
#include "tests/cases.h"

namespace hsm::testing {

// The operators that the library has plugins for.
std::vector<const opset::Operator*> cuda_operators();

// The attributes of the operator's small case.
std::vector<opset::AttributeValue> some_attributes(const opset::Operator& op);

std::vector<opset::Shape> shapes(std::span<const opset::Port> ports, const Sizes& sizes);

// A tensor in memory that is aligned as a GPU's and ends where the tensor ends.
class Tensor {
 public:
  Tensor(DType type, const opset::Shape& shape);

  void* data() { return bytes_.get(); }
  const void* data() const { return bytes_.get(); }
  std::size_t size() const { return count_; }
  std::size_t bytes() const { return count_ * size_of(type_); }
  float at(std::size_t i) const;
  void set(std::size_t i, float value);

 private:
  struct Free {
    void operator()(std::byte* bytes) const;
  };

  DType type_;
  std::size_t count_ = 1;
  std::unique_ptr<std::byte, Free> bytes_;
};

class Node {
 public:
  Node(const opset::Operator& op, DType t, const Sizes& sizes, std::uint32_t seed);

  const opset::Operator& op;
  const DType t;
  const Sizes sizes;
  const std::vector<opset::AttributeValue> attributes;
  const std::vector<opset::Shape> input_shapes;
  const std::vector<opset::Shape> output_shapes;

  std::vector<const void*> inputs() const;
  // Output tensors full of NaN.
  std::vector<Tensor> make_outputs() const;
  // What the operator's definition computes.
  std::vector<Tensor> expected() const;
  // Expects the tokens that are specified to be those of the definition.
  void compare(const std::vector<Tensor>& actual, const std::string& what) const;

 private:
  void fill(std::size_t index, Tensor& tensor, std::mt19937& random) const;

  std::vector<Tensor> tensors_;
};

std::vector<void*> pointers(std::vector<Tensor>& tensors);

}  // namespace hsm::testing
