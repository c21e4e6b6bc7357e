#include "tensorrt/fields.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace hsm::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <typename From, typename To>
std::vector<To> copy_numbers(const PluginField& field) {
  std::vector<From> numbers(static_cast<std::size_t>(field.length));
  // Serialised fields lie in the engine file, where nothing aligns them.
  if (!numbers.empty()) std::memcpy(numbers.data(), field.data, numbers.size() * sizeof(From));
  return {numbers.begin(), numbers.end()};
}

std::optional<std::string> read_field(const std::string& where, bool is_float, const PluginField& field,
                                      opset::AttributeValue& value) {
  if (field.length < 0 || (field.length > 0 && field.data == nullptr)) return where + " has no data";
  if (is_float && field.type == PluginFieldType::kFLOAT32) {
    value.floats = copy_numbers<float, float>(field);
  } else if (!is_float && field.type == PluginFieldType::kINT32) {
    value.ints = copy_numbers<std::int32_t, std::int64_t>(field);
  } else if (!is_float && field.type == PluginFieldType::kINT64) {
    value.ints = copy_numbers<std::int64_t, std::int64_t>(field);
  } else {
    return where + " must be " + (is_float ? "FLOAT32" : "INT32 or INT64") + ", got the field type " +
           std::to_string(static_cast<int>(field.type));
  }
  return std::nullopt;
}

}  // namespace

Fields::Fields(const opset::Operator& op) {
  for (const opset::Attribute& attribute : op.attributes) {
    const bool is_float = attribute.type == opset::AttributeType::kFloat;
    fields_.emplace_back(attribute.name.data(), nullptr, is_float ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT64,
                         attribute.type == opset::AttributeType::kInts ? 0 : 1);
  }
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

Fields::Fields(std::vector<opset::AttributeValue> values) : values_(std::move(values)) {
  for (const opset::AttributeValue& value : values_) {
    const void* data = value.ints.data();
    if (!value.floats.empty()) data = value.floats.data();
    fields_.emplace_back(value.name.data(), data,
                         value.floats.empty() ? PluginFieldType::kINT64 : PluginFieldType::kFLOAT32,
                         static_cast<std::int32_t>(value.ints.size() + value.floats.size()));
  }
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

std::optional<std::string> read_fields(const opset::Operator& op, const nvinfer1::PluginFieldCollection* fields,
                                       std::vector<opset::AttributeValue>& values) {
  std::span<const PluginField> given;
  if (fields != nullptr && fields->fields != nullptr && fields->nbFields > 0) {
    given = {fields->fields, static_cast<std::size_t>(fields->nbFields)};
  }
  values.clear();
  for (const opset::Attribute& attribute : op.attributes) {
    const auto found = std::ranges::find_if(
        given, [&](const PluginField& field) { return field.name != nullptr && field.name == attribute.name; });
    if (found == given.end()) continue;  // check_attributes says that it is missing
    opset::AttributeValue value{attribute.name, {}};
    const std::string where = std::string(op.name) + ": attribute " + std::string(attribute.name);
    const bool is_float = attribute.type == opset::AttributeType::kFloat;
    if (auto problem = read_field(where, is_float, *found, value)) return problem;
    values.push_back(std::move(value));
  }
  return opset::check_attributes(op, values);
}

}  // namespace hsm::tensorrt
