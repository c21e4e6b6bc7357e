#include "tests/onnxruntime/one_node_model.h"

#include <cstdint>
#include <cstring>

#include "tests/cases.h"

namespace hsm::testing {
namespace {

// A protobuf message under construction. Field numbers below are those of onnx.proto.
class Message {
 public:
  Message& integer(unsigned field, std::int64_t value) {
    varint(field << 3);
    varint(static_cast<std::uint64_t>(value));
    return *this;
  }
  Message& text(unsigned field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& number(unsigned field, float value) {
    varint(field << 3 | 5);
    char bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));  // little-endian, as the machines are
    bytes_.append(bytes, sizeof(value));
    return *this;
  }
  Message& message(unsigned field, const Message& value) { return text(field, value.bytes_); }

  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

// TensorProto.DataType.
std::int64_t data_type(const opset::Port& port, DType type) {
  if (port.type == opset::ElementType::kInt64) return 7;
  if (port.type == opset::ElementType::kUInt8) return 2;
  if (port.type == opset::ElementType::kFloat32 || type == DType::kFloat32) return 1;
  return type == DType::kFloat16 ? 10 : 16;
}

// ValueInfoProto, with the table's names as the names of dynamic dimensions.
Message value_info(const opset::Port& port, DType type, const opset::Shape& sizes = {}) {
  Message shape;
  for (const std::int64_t size : sizes) shape.message(1, Message().integer(1, size));
  if (sizes.empty()) {
    for (const opset::Dimension* dim : port.dims) shape.message(1, Message().text(2, dim->name));
  }
  const Message tensor = Message().integer(1, data_type(port, type)).message(2, shape);
  return Message().text(1, port.name).message(2, Message().message(1, tensor));
}

// TensorProto of zeros.
Message zeros(const opset::Port& port, DType type, const opset::Shape& sizes) {
  Message tensor;
  std::size_t bytes = size_of(type_of(port, type));
  for (const std::int64_t size : sizes) {
    tensor.integer(1, size);
    bytes *= static_cast<std::size_t>(size);
  }
  return tensor.integer(2, data_type(port, type)).text(8, port.name).text(9, std::string(bytes, '\0'));
}

Message attribute_proto(const opset::Attribute& attribute, const opset::AttributeValue& value) {
  constexpr std::int64_t kFloat = 1;
  constexpr std::int64_t kInt = 2;
  constexpr std::int64_t kInts = 7;
  Message proto;
  proto.text(1, attribute.name);
  if (attribute.type == opset::AttributeType::kInt) return proto.integer(3, value.ints.front()).integer(20, kInt);
  if (attribute.type == opset::AttributeType::kFloat) return proto.number(2, value.floats.front()).integer(20, kFloat);
  for (const std::int64_t number : value.ints) proto.integer(8, number);
  return proto.integer(20, kInts);
}

}  // namespace

std::string one_node_model(const opset::Operator& op, DType type, std::span<const opset::AttributeValue> attributes,
                           const std::map<std::string_view, InputSpec>& specs) {
  Message node;
  for (const opset::Port& port : op.inputs) node.text(1, port.name);
  for (const opset::Port& port : op.outputs) node.text(2, port.name);
  node.text(3, "node").text(4, op.name).text(7, op.domain);
  for (std::size_t i = 0; i < attributes.size(); ++i) node.message(5, attribute_proto(op.attributes[i], attributes[i]));

  Message graph;
  graph.message(1, node).text(2, "graph");
  for (const opset::Port& port : op.inputs) {
    const auto found = specs.find(port.name);
    const InputSpec spec = found == specs.end() ? InputSpec() : found->second;
    if (spec.is_constant) {
      graph.message(5, zeros(port, type, spec.shape));
    } else {
      graph.message(11, value_info(port, type, spec.shape));
    }
  }
  for (const opset::Port& port : op.outputs) graph.message(12, value_info(port, type));

  constexpr std::int64_t kIrVersion = 10;
  return Message()
      .integer(1, kIrVersion)
      .message(7, graph)
      .message(8, Message().text(1, "").integer(2, 21))
      .message(8, Message().text(1, op.domain).integer(2, op.version))
      .bytes();
}

}  // namespace hsm::testing
