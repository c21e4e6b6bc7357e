#include "hsm_operators/common/description.h"

namespace hsm::opset {
namespace {

std::string_view type_name(ElementType type) {
  switch (type) {
    case ElementType::kT:
      return "T";
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kInt64:
      return "int64";
    case ElementType::kBool:
      return "bool";
    case ElementType::kUInt8:
      return "uint8";
  }
  return "";
}

std::string_view type_name(AttributeType type) {
  switch (type) {
    case AttributeType::kInt:
      return "int";
    case AttributeType::kInts:
      return "ints";
    case AttributeType::kFloat:
      return "float";
  }
  return "";
}

std::string described(std::span<const Port> ports) {
  std::string text;
  for (const Port& port : ports) {
    if (!text.empty()) text += ',';
    text.append(port.name).append(":").append(type_name(port.type)).append("(");
    std::string_view comma;
    for (const Dimension* dimension : port.dims) {
      text.append(comma).append(dimension->name);
      comma = ",";
    }
    text += ')';
  }
  return text;
}

}  // namespace

std::string described(const Operator& op) {
  std::string attributes;
  for (const Attribute& attribute : op.attributes) {
    if (!attributes.empty()) attributes += ',';
    attributes.append(attribute.name).append(":").append(type_name(attribute.type));
  }
  return std::string(op.domain).append("::").append(op.name).append("(" + described(op.inputs) + ")->(" +
                                                                    described(op.outputs) + "){" + attributes + "}");
}

const char* described_library(bool (*has_kernel)(const Operator& op)) noexcept {
  try {
    static const std::string text = [has_kernel] {
      std::string lines;
      for (const Operator& op : operators()) {
        if (has_kernel(op)) lines += described(op) + '\n';
      }
      return lines;
    }();
    return text.c_str();
  } catch (...) {
    return "";
  }
}

}  // namespace hsm::opset
