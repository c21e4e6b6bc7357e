// The operator table in TensorRT's terms: element types, and shapes as numbers or as expressions.
#pragma once

#include <NvInferRuntime.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"

namespace hsm::tensorrt {

// Returns T of a node in which an input of type T has this type, or nothing where no kernel takes it.
std::optional<DType> element_type_of(nvinfer1::DataType type);

// Returns T of a node whose input i has the type `type_at(i)`; float32 where no input is T.
template <typename TypeAt>
std::optional<DType> node_type(const opset::Operator& op, TypeAt type_at) {
  const std::size_t first = opset::first_t(op);
  return first == op.inputs.size() ? DType::kFloat32 : element_type_of(type_at(first));
}

nvinfer1::DataType data_type(const opset::Port& port, DType t);

// Returns what is wrong with the inputs' types, as a sentence, or nothing; T is then in `t`.
std::optional<std::string> check_types(const opset::Operator& op, std::span<const nvinfer1::DataType> inputs, DType& t);

opset::Shape shape_of(const nvinfer1::Dims& dims);

// Returns the inputs' shapes; sizes that are not constant are -1.
std::vector<opset::Shape> known_shapes(std::span<const nvinfer1::DimsExprs> inputs);

// Returns the output's shape, made of the expressions of the inputs' sizes.
nvinfer1::DimsExprs output_shape(const opset::Operator& op, const opset::Port& output,
                                 std::span<const nvinfer1::DimsExprs> inputs);

}  // namespace hsm::tensorrt
