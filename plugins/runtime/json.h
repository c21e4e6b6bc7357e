// JSON that anybody may have written: parsed strictly, into plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace hsm::runtime::json {

struct Value;
using Array = std::vector<Value>;
using Members = std::vector<std::pair<std::string, Value>>;

struct Value {
  Value() {}  // not defaulted: Clang would need it inside its own class

  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Members> value = nullptr;

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
};

constexpr std::size_t kMaxDepth = 32;

// Throws Error(kBadBundle): no JSON in UTF-8, a name twice in an object, or nested deeper than kMaxDepth. `where` names
// the text.
Value parse(std::string_view text, const std::string& where);

}  // namespace hsm::runtime::json
