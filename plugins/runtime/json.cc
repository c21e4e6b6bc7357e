#include "runtime/json.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "runtime/error.h"

namespace hsm::runtime::json {
namespace {

// Builds values from the events of the parser, which itself neither recurses nor looks for repeated names.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  Value take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(static_cast<std::int64_t>(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return add(static_cast<std::int64_t>(value));
    }
    return add(static_cast<double>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool key(string_t& name) override {
    std::get<Members>(open_.back()->value).emplace_back().first = std::move(name);
    return true;
  }
  bool start_object(std::size_t) override { return enter(Members()); }
  bool end_object() override {
    refuse_twins(std::get<Members>(open_.back()->value));
    return leave();
  }
  bool start_array(std::size_t) override { return enter(Array()); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail(Code::kBadBundle, where_ + " is not valid JSON near byte " + std::to_string(position));
  }

 private:
  void refuse_twins(const Members& members) const {
    std::vector<std::string_view> names;
    for (const auto& [name, value] : members) names.push_back(name);
    std::sort(names.begin(), names.end());
    const auto twin = std::adjacent_find(names.begin(), names.end());
    if (twin != names.end()) {
      fail(Code::kBadBundle, where_ + " is not valid JSON: the name '" + std::string(*twin) + "' comes twice");
    }
  }
  template <typename T>
  Value* place(T&& value) {
    Value* slot = &root_;
    if (!open_.empty()) {
      if (Array* array = std::get_if<Array>(&open_.back()->value)) {
        slot = &array->emplace_back();
      } else {
        slot = &std::get<Members>(open_.back()->value).back().second;
      }
    }
    slot->value = std::forward<T>(value);
    return slot;
  }
  template <typename T>
  bool add(T&& value) {
    place(std::forward<T>(value));
    return true;
  }
  // An open container never moves: what contains it grows only after it was closed.
  template <typename T>
  bool enter(T&& container) {
    if (open_.size() == kMaxDepth) {
      fail(Code::kBadBundle, where_ + " is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    open_.push_back(place(std::forward<T>(container)));
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  Value root_;
  std::vector<Value*> open_;
};

}  // namespace

Value parse(std::string_view text, const std::string& where) {
  if (text.starts_with("\xef\xbb\xbf")) {
    fail(Code::kBadBundle, where + " is not valid JSON: it starts with a byte order mark");
  }
  Builder builder(where);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
    fail(Code::kBadBundle, where + " is not valid JSON");
  }
  return builder.take();
}

}  // namespace hsm::runtime::json
