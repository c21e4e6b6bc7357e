// A plugin's attributes as TensorRT hands them over and stores them: numbers by name.
#pragma once

#include <NvInferRuntime.h>

#include <optional>
#include <string>
#include <vector>

#include "hsm_operators/common/opset.h"

namespace hsm::tensorrt {

// Fields of an operator's attributes, with the memory that they point to.
class Fields {
 public:
  // Names and types alone, with which a creator tells the parser what to collect.
  explicit Fields(const opset::Operator& op);
  // With values, to be serialised.
  explicit Fields(std::vector<opset::AttributeValue> values);

  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

 private:
  std::vector<opset::AttributeValue> values_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// Reads an operator's attributes (INT32 or INT64) from fields in any order; others are not looked at. Returns what is
// wrong with them, as a sentence, or nothing.
std::optional<std::string> read_fields(const opset::Operator& op, const nvinfer1::PluginFieldCollection* fields,
                                       std::vector<opset::AttributeValue>& values);

}  // namespace hsm::tensorrt
