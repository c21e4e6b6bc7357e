// Members of a tokenizer.json, many of which older versions leave out.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/reader.h"

namespace hsm::runtime::text {

[[noreturn]] inline void unknown(const std::string& what) {
  fail(Code::kNoBackend, "this library does not know a tokenizer with " + printable(what) +
                             "; let Python make the token ids, or export the tokenizer in another form");
}

// NULL for a member that is not there or null.
inline const json::Value* member(const json::Value& object, std::string_view name) {
  const auto* members = std::get_if<json::Members>(&object.value);
  if (members == nullptr) return nullptr;
  for (const auto& [key, value] : *members) {
    if (key == name) return value.is_null() ? nullptr : &value;
  }
  return nullptr;
}

inline const json::Value& needed(const json::Value& object, std::string_view name) {
  const json::Value* value = member(object, name);
  if (value == nullptr) fail(Code::kBadBundle, "tokenizer.json lacks '" + std::string(name) + "'");
  return *value;
}

template <typename T>
T value_or(const json::Value& object, std::string_view name, T absent) {
  const json::Value* value = member(object, name);
  return value == nullptr ? absent : as<T>(*value, "tokenizer.json: '" + std::string(name) + "'");
}

inline const std::string& text_of(const json::Value& object, std::string_view name) {
  return as<std::string>(needed(object, name), "tokenizer.json: '" + std::string(name) + "'");
}

inline const json::Array& list_of(const json::Value& object, std::string_view name) {
  return as<json::Array>(needed(object, name), "tokenizer.json: '" + std::string(name) + "'");
}

inline std::string type_of(const json::Value& object) { return value_or<std::string>(object, "type", ""); }

// Refuses settings that change the result, by their names.
inline void refuse_set(const json::Value& object, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const json::Value* value = member(object, name);
    if (value == nullptr) continue;
    const bool* flag = std::get_if<bool>(&value->value);
    const std::string* text = std::get_if<std::string>(&value->value);
    const double* number = std::get_if<double>(&value->value);
    const std::int64_t* whole = std::get_if<std::int64_t>(&value->value);
    const bool is_off =
        (flag && !*flag) || (text && text->empty()) || (number && *number == 0) || (whole && *whole == 0);
    if (!is_off) unknown("'" + std::string(name) + "'");
  }
}

}  // namespace hsm::runtime::text
