#include "tensorrt/signature.h"

#include <algorithm>

namespace hsm::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::IDimensionExpr;

// The types that someone may feed by mistake, by name.
std::string name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kBF16:
      return "bfloat16";
    case DataType::kINT8:
      return "int8";
    case DataType::kINT32:
      return "int32";
    case DataType::kINT64:
      return "int64";
    case DataType::kBOOL:
      return "bool";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

// Returns the expression of a dimension: a constant one where an input has it, else that of the first input.
const IDimensionExpr* size_of(const opset::Operator& op, std::span<const nvinfer1::DimsExprs> inputs,
                              const opset::Dimension* dim) {
  const IDimensionExpr* found = nullptr;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto dims = op.inputs[i].dims;
    const auto place = std::ranges::find(dims, dim);
    if (place == dims.end()) continue;
    const IDimensionExpr* size = inputs[i].d[place - dims.begin()];
    if (found == nullptr || (!found->isConstant() && size->isConstant())) found = size;
  }
  return found;
}

}  // namespace

std::optional<DType> element_type_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return DType::kFloat32;
    case DataType::kHALF:
      return DType::kFloat16;
    case DataType::kBF16:
      return DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

DataType data_type(const opset::Port& port, DType t) {
  if (port.type == opset::ElementType::kFloat32) return DataType::kFLOAT;
  if (port.type == opset::ElementType::kInt64) return DataType::kINT64;
  if (port.type == opset::ElementType::kBool) return DataType::kBOOL;
  if (port.type == opset::ElementType::kUInt8) return DataType::kUINT8;
  switch (t) {
    case DType::kFloat16:
      return DataType::kHALF;
    case DType::kBFloat16:
      return DataType::kBF16;
    default:
      return DataType::kFLOAT;
  }
}

std::optional<std::string> check_types(const opset::Operator& op, std::span<const DataType> inputs, DType& t) {
  if (inputs.size() != op.inputs.size()) {
    return std::string(op.name) + " takes " + std::to_string(op.inputs.size()) + " inputs, got " +
           std::to_string(inputs.size());
  }
  const auto refusal = [&](std::size_t i, const std::string& expected) {
    return std::string(op.name) + ": input " + std::string(op.inputs[i].name) + " must be " + expected + ", got " +
           name_of(inputs[i]);
  };
  const std::size_t first = opset::first_t(op);
  const auto found = node_type(op, [&](std::size_t i) { return inputs[i]; });
  if (!found) return refusal(first, "float32, float16 or bfloat16");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const DataType expected = data_type(op.inputs[i], *found);
    const bool follows = op.inputs[i].type == opset::ElementType::kT;
    const std::string like = follows ? " like input " + std::string(op.inputs[first].name) : "";
    if (inputs[i] != expected) return refusal(i, name_of(expected) + like);
  }
  t = *found;
  return std::nullopt;
}

opset::Shape shape_of(const nvinfer1::Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

std::vector<opset::Shape> known_shapes(std::span<const nvinfer1::DimsExprs> inputs) {
  std::vector<opset::Shape> shapes;
  for (const nvinfer1::DimsExprs& input : inputs) {
    opset::Shape& shape = shapes.emplace_back();
    for (std::int32_t axis = 0; axis < input.nbDims; ++axis) {
      const IDimensionExpr& size = *input.d[axis];
      shape.push_back(size.isConstant() ? size.getConstantValue() : -1);
    }
  }
  return shapes;
}

nvinfer1::DimsExprs output_shape(const opset::Operator& op, const opset::Port& output,
                                 std::span<const nvinfer1::DimsExprs> inputs) {
  nvinfer1::DimsExprs shape;
  shape.nbDims = static_cast<std::int32_t>(output.dims.size());
  for (std::size_t axis = 0; axis < output.dims.size(); ++axis) {
    shape.d[axis] = size_of(op, inputs, output.dims[axis]);
  }
  return shape;
}

}  // namespace hsm::tensorrt
