// A call as the C functions of this folder get it, read and checked against the operator's table.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"
#include "torch/hsm_kernels.h"

namespace hsm::torch {

static_assert(HSM_KERNELS_FLOAT32 == static_cast<int>(DType::kFloat32) &&
              HSM_KERNELS_FLOAT16 == static_cast<int>(DType::kFloat16) &&
              HSM_KERNELS_BFLOAT16 == static_cast<int>(DType::kBFloat16));

inline std::vector<opset::Shape> read_shapes(const opset::Operator& op, const std::int64_t* sizes) {
  std::vector<opset::Shape> shapes;
  shapes.reserve(op.inputs.size());
  for (const opset::Port& port : op.inputs) {
    shapes.emplace_back(sizes, sizes + port.dims.size());
    sizes += port.dims.size();
  }
  return shapes;
}

inline std::vector<opset::AttributeValue> read_attributes(const opset::Operator& op, const std::int64_t* numbers) {
  std::vector<opset::AttributeValue> values;
  values.reserve(op.attributes.size());
  for (const opset::Attribute& attribute : op.attributes) {
    const std::int64_t count = *numbers++;
    opset::AttributeValue& value = values.emplace_back(opset::AttributeValue{attribute.name, {}});
    if (attribute.type == opset::AttributeType::kFloat) {
      for (std::int64_t i = 0; i < count; ++i) {
        value.floats.push_back(static_cast<float>(std::bit_cast<double>(numbers[i])));
      }
    } else {
      value.ints.assign(numbers, numbers + count);
    }
    numbers += count;
  }
  return values;
}

// Sizes and attributes of a call; `problem` says why the operator does not take them.
struct Request {
  Request(const opset::Operator& op, std::int32_t type_number, const std::int64_t* sizes, const std::int64_t* numbers) {
    if (type_number < HSM_KERNELS_FLOAT32 || type_number > HSM_KERNELS_BFLOAT16) {
      problem = std::string(op.name) + " has no type of number " + std::to_string(type_number);
      return;
    }
    type = static_cast<DType>(type_number);
    shapes = read_shapes(op, sizes);
    attributes = read_attributes(op, numbers);
    std::vector<opset::Shape> output_shapes;
    problem = opset::check_attributes(op, attributes);
    if (!problem) problem = opset::infer_shapes(op, attributes, shapes, output_shapes);
  }

  DType type = DType::kFloat32;
  std::vector<opset::Shape> shapes;
  std::vector<opset::AttributeValue> attributes;
  std::optional<std::string> problem;
};

}  // namespace hsm::torch
