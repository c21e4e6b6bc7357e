#include "tests/tensorrt/node.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/definition.h"
#include "tests/testing.h"

namespace hsm::testing {

std::vector<const opset::Operator*> cuda_operators() {
  std::vector<const opset::Operator*> all;
  for (const opset::Operator& op : opset::operators()) {
    if (cuda::kernels_of(op) != nullptr) all.push_back(&op);
  }
  return all;
}

std::vector<opset::AttributeValue> some_attributes(const opset::Operator& op) { return small_case(op).attributes; }

std::vector<opset::Shape> shapes(std::span<const opset::Port> ports, const Sizes& sizes) {
  std::vector<opset::Shape> all;
  for (const opset::Port& port : ports) all.push_back(shape_of(port, sizes));
  return all;
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

Node::Node(const opset::Operator& own_op, DType own_t, const Sizes& own_sizes, std::uint32_t seed)
    : op(own_op),
      t(own_t),
      sizes(own_sizes),
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
    const auto [least, most] = row_range(op, port, attributes, sizes);
    std::uniform_int_distribution<std::int64_t> any(least, most);
    for (std::size_t i = 0; i < tensor.size(); ++i) static_cast<std::int64_t*>(tensor.data())[i] = any(random);
    return;
  }
  draw(op, index, input_shapes[index], random,
       [&](std::size_t i, double value) { tensor.set(i, static_cast<float>(value)); });
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

// The bound finds wrong elements; how exact the right ones are is for the kernels' own tests.
void Node::compare(const std::vector<Tensor>& actual, const std::string& what) const {
  const std::vector<Tensor> expected_outputs = expected();
  const auto sources = inputs();
  const auto batch = static_cast<std::size_t>(sizes.at("B"));
  for (std::size_t output = 0; output < actual.size(); ++output) {
    const Tensor& want = expected_outputs[output];
    const std::size_t per_row = batch == 0 ? 0 : want.size() / batch;
    for (std::size_t row = 0; row < batch; ++row) {
      const std::size_t count = valid_elements(op, output, output_shapes[output], sources, row);
      for (std::size_t i = row * per_row; i < row * per_row + count; ++i) {
        const float bound = static_cast<float>(8 * epsilon(t)) * (std::fabs(want.at(i)) + 4) + 1e-4f;
        ASSERT_NEAR(actual[output].at(i), want.at(i), bound)
            << what << ": " << op.name << " " << name_of(t) << " output " << output << " element " << i;
      }
    }
  }
}

}  // namespace hsm::testing
