#include "tensorrt/fields.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace hsm::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <typename Int>
std::vector<std::int64_t> copy_ints(const PluginField& field) {
  std::vector<Int> ints(static_cast<std::size_t>(field.length));
  // Serialised fields lie in the engine file, where nothing aligns them.
  if (!ints.empty()) std::memcpy(ints.data(), field.data, ints.size() * sizeof(Int));
  return {ints.begin(), ints.end()};
}

std::optional<std::string> read_field(const std::string& where, const PluginField& field,
                                      std::vector<std::int64_t>& ints) {
  if (field.length < 0 || (field.length > 0 && field.data == nullptr)) return where + " has no data";
  switch (field.type) {
    case PluginFieldType::kINT32:
      ints = copy_ints<std::int32_t>(field);
      return std::nullopt;
    case PluginFieldType::kINT64:
      ints = copy_ints<std::int64_t>(field);
      return std::nullopt;
    default:
      return where + " must be INT32 or INT64, got the field type " + std::to_string(static_cast<int>(field.type));
  }
}

}  // namespace

Fields::Fields(const opset::Operator& op) {
  for (const opset::Attribute& attribute : op.attributes) {
    fields_.emplace_back(attribute.name.data(), nullptr, PluginFieldType::kINT64,
                         attribute.type == opset::AttributeType::kInt ? 1 : 0);
  }
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

Fields::Fields(std::vector<opset::AttributeValue> values) : values_(std::move(values)) {
  for (const opset::AttributeValue& value : values_) {
    fields_.emplace_back(value.name.data(), value.ints.data(), PluginFieldType::kINT64,
                         static_cast<std::int32_t>(value.ints.size()));
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
    std::vector<std::int64_t> ints;
    const std::string where = std::string(op.name) + ": attribute " + std::string(attribute.name);
    if (auto problem = read_field(where, *found, ints)) return problem;
    values.push_back({attribute.name, std::move(ints)});
  }
  return opset::check_attributes(op, values);
}

}  // namespace hsm::tensorrt
