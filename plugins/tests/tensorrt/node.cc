#include "tests/tensorrt/node.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "hsm_operators/common/definition.h"
#include "tests/testing.h"

namespace hsm::testing {

std::vector<opset::AttributeValue> some_attributes(const opset::Operator& op) {
  std::vector<opset::AttributeValue> values;
  for (const opset::Attribute& attribute : op.attributes) {
    values.push_back({attribute.name, {1}});
    if (attribute.name == "shifts") values.back().ints = {1, 5, 2};
    if (attribute.name == "k") values.back().ints = {2};
  }
  return values;
}

Sizes some_sizes(std::int64_t batch, std::int64_t length) {
  return {{"B", batch}, {"T", length}, {"D", 12}, {"R", 7}, {"H", 2},
          {"d", 8},     {"e", 5},      {"F", 45}, {"E", 4}, {"f", 10}};
}

opset::Shape shape(const opset::Port& port, const Sizes& sizes) {
  opset::Shape shape;
  for (const opset::Dimension* dim : port.dims) shape.push_back(sizes.at(dim->name));
  return shape;
}

std::vector<opset::Shape> shapes(std::span<const opset::Port> ports, const Sizes& sizes) {
  std::vector<opset::Shape> all;
  for (const opset::Port& port : ports) all.push_back(shape(port, sizes));
  return all;
}

DType type_of(const opset::Port& port, DType t) {
  if (port.type == opset::ElementType::kFloat32) return DType::kFloat32;
  return port.type == opset::ElementType::kInt64 ? DType::kInt64 : t;
}

// ---------------------------------------------------------------- tensors

void Tensor::Free::operator()(std::byte* bytes) const { std::free(bytes); }

Tensor::Tensor(DType type, const opset::Shape& shape) : type_(type) {
  for (const std::int64_t size : shape) count_ *= static_cast<std::size_t>(size);
  const std::size_t bytes = count_ * size_of(type);
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, std::max<std::size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  bytes_.reset(static_cast<std::byte*>(memory));
  std::fill_n(bytes_.get(), bytes, std::byte{0xff});  // NaN in every type
}

float Tensor::at(std::size_t i) const {
  switch (type_) {
    case DType::kFloat16:
      return to_float(static_cast<const Half*>(data())[i]);
    case DType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(data())[i]);
    default:
      return static_cast<const float*>(data())[i];
  }
}

void Tensor::set(std::size_t i, float value) {
  switch (type_) {
    case DType::kFloat16:
      static_cast<Half*>(data())[i] = from_float<Half>(value);
      break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(data())[i] = from_float<BFloat16>(value);
      break;
    default:
      static_cast<float*>(data())[i] = value;
  }
}

std::vector<void*> pointers(std::vector<Tensor>& tensors) {
  std::vector<void*> all;
  for (Tensor& tensor : tensors) all.push_back(tensor.data());
  return all;
}

// ---------------------------------------------------------------- nodes

Node::Node(const opset::Operator& own_op, DType own_t, const Sizes& sizes, std::uint32_t seed)
    : op(own_op),
      t(own_t),
      attributes(some_attributes(own_op)),
      input_shapes(shapes(own_op.inputs, sizes)),
      output_shapes(shapes(own_op.outputs, sizes)) {
  std::mt19937 random(seed);
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    fill(i, tensors_.emplace_back(type_of(op.inputs[i], t), input_shapes[i]), random);
  }
}

void Node::fill(std::size_t index, Tensor& tensor, std::mt19937& random) const {
  const opset::Port& port = op.inputs[index];
  if (port.type == opset::ElementType::kInt64) {
    const int tokens = static_cast<int>(input_shapes.front()[1]);
    const int smallest = op.name == "TaylorShiftMasked" ? 1 : 0;
    for (std::size_t row = 0; row < tensor.size(); ++row) {
      static_cast<std::int64_t*>(tensor.data())[row] =
          port.name == "lengths" ? uniform(random, smallest, tokens) : uniform(random, 0, 20);
    }
    return;
  }
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < tensor.size(); ++i) tensor.set(i, normal(random));
  if (port.name != "norm") return;
  // A history of four keys at the origin keeps the denominators away from zero.
  const auto features = static_cast<std::size_t>(input_shapes[index].back());
  for (std::size_t i = 0; i < tensor.size(); ++i) tensor.set(i, i % features == 0 ? 4.0f : 0.0f);
}

std::vector<const void*> Node::inputs() const {
  std::vector<const void*> all;
  for (const Tensor& tensor : tensors_) all.push_back(tensor.data());
  return all;
}

std::vector<Tensor> Node::make_outputs() const {
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < op.outputs.size(); ++i) {
    outputs.emplace_back(type_of(op.outputs[i], t), output_shapes[i]);
  }
  return outputs;
}

std::vector<Tensor> Node::expected() const {
  std::vector<Tensor> outputs = make_outputs();
  const auto targets = pointers(outputs);
  const auto sources = inputs();
  definition_of(op)->run({t, attributes, input_shapes, sources, targets});
  return outputs;
}

std::int64_t Node::valid_tokens(std::size_t row) const {
  if (op.inputs.back().name != "lengths") return input_shapes.front()[1];
  return static_cast<const std::int64_t*>(tensors_.back().data())[row];
}

// The bound finds wrong elements; how exact the right ones are is for the kernels' own tests.
void Node::compare(const std::vector<Tensor>& actual, const std::string& what) const {
  const std::vector<Tensor> expected_outputs = expected();
  const auto batch = static_cast<std::size_t>(input_shapes.front()[0]);
  const auto tokens = static_cast<std::size_t>(input_shapes.front()[1]);
  for (std::size_t output = 0; output < actual.size(); ++output) {
    const Tensor& want = expected_outputs[output];
    const std::size_t per_row = batch == 0 ? 0 : want.size() / batch;
    for (std::size_t row = 0; row < batch; ++row) {
      const auto valid = static_cast<std::size_t>(valid_tokens(row));
      const std::size_t count = output == 0 ? per_row / tokens * valid : per_row;
      for (std::size_t i = row * per_row; i < row * per_row + count; ++i) {
        const float bound = static_cast<float>(8 * epsilon(t)) * (std::fabs(want.at(i)) + 4) + 1e-4f;
        ASSERT_NEAR(actual[output].at(i), want.at(i), bound)
            << what << ": " << op.name << " " << name_of(t) << " output " << output << " element " << i;
      }
    }
  }
}

}  // namespace hsm::testing
