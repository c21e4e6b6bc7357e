// Takes a JSON object apart, member by member, and leaves nothing unread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"
#include "runtime/json.h"

namespace hsm::runtime {

// The value as a T: bool, std::int64_t, std::string, json::Array or json::Members.
template <typename T>
const T& as(const json::Value& value, const std::string& where) {
  if (const T* found = std::get_if<T>(&value.value)) return *found;
  fail(Code::kBadBundle, where + " has the wrong type");
}

// A whole or real number.
inline double as_number(const json::Value& value, const std::string& where) {
  if (const std::int64_t* whole = std::get_if<std::int64_t>(&value.value)) return static_cast<double>(*whole);
  return as<double>(value, where);
}

class ObjectReader {
 public:
  ObjectReader(const json::Value& value, std::string where)
      : where_(std::move(where)), members_(as<json::Members>(value, where_)) {}

  const json::Value& value(std::string_view name) {
    seen_.emplace(name);
    for (const auto& [key, value] : members_) {
      if (key == name) return value;
    }
    fail(Code::kBadBundle, where_ + " lacks '" + std::string(name) + "'");
  }
  bool has(std::string_view name) const {
    return std::any_of(members_.begin(), members_.end(), [&](const auto& member) { return member.first == name; });
  }
  template <typename T>
  const T& get(std::string_view name) {
    return as<T>(value(name), path(name));
  }
  const std::string& text(std::string_view name) { return get<std::string>(name); }
  std::string one_of(std::string_view name, std::initializer_list<std::string_view> allowed) {
    const std::string& found = text(name);
    for (const std::string_view item : allowed) {
      if (found == item) return found;
    }
    fail(Code::kBadBundle, path(name) + " is '" + found + "', which this version does not know");
  }
  std::int64_t whole(std::string_view name, std::int64_t least, std::int64_t most) {
    const std::int64_t found = get<std::int64_t>(name);
    if (found < least || found > most) fail(Code::kBadBundle, path(name) + " is out of range");
    return found;
  }
  std::string path(std::string_view name) const { return where_ + "." + std::string(name); }

  // Call last: a member that nobody asked for is one that this version does not know.
  void finish() const {
    for (const auto& [key, value] : members_) {
      if (!seen_.contains(key)) fail(Code::kBadBundle, where_ + " has the unknown member '" + key + "'");
    }
  }

 private:
  std::string where_;
  const json::Members& members_;
  std::set<std::string, std::less<>> seen_;
};

}  // namespace hsm::runtime
