#include "tests/sample.h"

#include <limits>

namespace hsm::testing {
namespace {

std::size_t count(const opset::Shape& shape) {
  std::size_t product = 1;
  for (const std::int64_t size : shape) product *= static_cast<std::size_t>(size);
  return product;
}

}  // namespace

Sample::Sample(const opset::Operator& op, DType type, std::int64_t batch, std::int64_t length, std::mt19937& random)
    : op_(&op), type_(type), sizes_(small_sizes(op, batch, length)), attributes_(small_case(op).attributes) {
  for (const opset::Port& port : op.inputs) {
    shapes_.push_back(shape_of(port));
    Buffer& input = inputs_.emplace_back(type_of(port, type), count(shapes_.back()));
    if (port.type == opset::ElementType::kInt64) {
      const auto [least, most] = row_range(op, port, attributes_, sizes_);
      std::uniform_int_distribution<std::int64_t> any(least, most);
      for (std::size_t i = 0; i < input.size(); ++i) static_cast<std::int64_t*>(input.data())[i] = any(random);
    } else if (port.type == opset::ElementType::kUInt8) {
      for (std::size_t i = 0; i < input.size(); ++i) input.set(i, static_cast<float>(random() % 256));
    } else {
      draw(op, inputs_.size() - 1, shapes_.back(), random,
           [&](std::size_t i, double value) { input.set(i, static_cast<float>(value)); });
    }
  }
}

std::vector<const void*> Sample::sources() const {
  std::vector<const void*> all;
  for (const Buffer& input : inputs_) all.push_back(input.data());
  return all;
}

std::vector<Buffer> Sample::blank_outputs() const {
  std::vector<Buffer> outputs;
  for (const opset::Port& port : op_->outputs) outputs.emplace_back(type_of(port, type_), count(shape_of(port)));
  return outputs;
}

std::vector<void*> pointers(std::vector<Buffer>& buffers) {
  std::vector<void*> all;
  for (Buffer& buffer : buffers) all.push_back(buffer.data());
  return all;
}

std::vector<BadValue> bad_values(const opset::Operator& op) {
  std::vector<BadValue> found;
  for (std::size_t i = 0; i < op.attributes.size(); ++i) {
    const opset::Attribute& attribute = op.attributes[i];
    if (attribute.type == opset::AttributeType::kFloat) continue;
    const auto add = [&](std::int64_t value) {
      std::vector<opset::AttributeValue> values = small_case(op).attributes;
      values[i].ints.back() = value;
      if (const auto sentence = opset::check_attributes(op, values)) found.push_back({i, values, *sentence});
    };
    if (attribute.least > std::numeric_limits<std::int64_t>::min()) add(attribute.least - 1);
    if (attribute.most < std::numeric_limits<std::int64_t>::max()) add(attribute.most + 1);
  }
  return found;
}

std::vector<ChangedShapes> changed_shapes(const Sample& sample) {
  std::vector<ChangedShapes> found;
  for (std::size_t i = 0; i < sample.shapes().size(); ++i) {
    for (std::size_t axis = 0; axis < sample.shapes()[i].size(); ++axis) {
      std::vector<opset::Shape> shapes = sample.shapes();
      ++shapes[i][axis];
      std::vector<opset::Shape> outputs;
      const auto problem = opset::infer_shapes(sample.op(), sample.attributes(), shapes, outputs);
      found.push_back({shapes, problem.value_or("")});
    }
  }
  return found;
}

std::vector<BadRow> bad_rows(const opset::Operator& op, std::mt19937& random) {
  std::vector<BadRow> found;
  const Sizes sizes = small_sizes(op, 2, 150);
  for (std::size_t bad = 0; bad < op.inputs.size(); ++bad) {
    if (op.inputs[bad].rows == nullptr) continue;
    Sample sample(op, DType::kFloat32, 2, 150, random);
    for (std::size_t i = 0; i < op.inputs.size(); ++i) {
      if (op.inputs[i].rows == nullptr) continue;
      const auto [least, most] = row_range(op, op.inputs[i], sample.attributes(), sizes);
      sample.set(i, i == bad ? least - 1 : most);
    }
    const auto sources = sample.sources();
    const auto sentence = opset::check_rows(op, sample.attributes(), sample.shapes(), sources);
    if (sentence) found.push_back({std::move(sample), *sentence});
  }
  return found;
}

}  // namespace hsm::testing
