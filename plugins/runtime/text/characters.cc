#include "runtime/text/characters.h"

#include <array>
#include <cstdio>

#include "runtime/error.h"
#include "runtime/reader.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

std::string code_point(char32_t code) {
  std::array<char, 16> text = {};
  std::snprintf(text.data(), text.size(), "U+%04X", static_cast<unsigned>(code));
  return text.data();
}

}  // namespace

Characters::Characters(const json::Value& document, const std::string& where) {
  ObjectReader reader(document, where);
  std::string_view rest = reader.text("characters");
  reader.finish();
  if (rest.empty()) fail(Code::kBadBundle, where + " has no characters");
  while (!rest.empty()) {
    const Character character = first_character(rest);
    if (!ids_.emplace(character.code, vocabulary()).second) {
      fail(Code::kBadBundle, where + ": the character " + code_point(character.code) + " is there twice");
    }
    characters_.emplace_back(rest.substr(0, character.bytes));
    rest.remove_prefix(character.bytes);
  }
}

std::vector<std::int64_t> Characters::encode(std::string_view text) const {
  std::vector<std::int64_t> ids;
  while (!text.empty()) {
    const Character character = first_character(text);
    const auto found = ids_.find(character.code);
    if (found == ids_.end()) {
      fail(Code::kInvalidArgument, "the character " + code_point(character.code) + " is not one of the tokenizer's " +
                                       std::to_string(characters_.size()));
    }
    ids.push_back(found->second);
    text.remove_prefix(character.bytes);
  }
  return ids;
}

std::string Characters::decode(std::span<const std::int64_t> ids) const {
  std::string text;
  for (const std::int64_t id : ids) {
    if (id < vocabulary()) text += characters_[static_cast<std::size_t>(id)];
  }
  return text;
}

}  // namespace hsm::runtime::text
