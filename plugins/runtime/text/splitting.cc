#include "runtime/text/splitting.h"

#include <array>
#include <utility>

#include "runtime/text/json_fields.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

// GPT-2's table: bytes that print are themselves, the others lie from U+0100 on, in their order.
bool prints(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

std::array<std::string, 256> shown_bytes() {
  std::array<std::string, 256> table;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    append(table[static_cast<std::size_t>(byte)], prints(byte) ? static_cast<char32_t>(byte) : next++);
  }
  return table;
}

// Splits at characters: `kind` says of each whether it is one (alone a word), outside, or between (dropped).
Words at_matches(Word word, const std::function<std::pair<std::size_t, bool>(std::string_view)>& next, bool keeps) {
  Words words;
  std::string_view rest = word.text, open = rest.substr(0, 0);
  bool is_first = word.is_first;
  const auto add = [&](std::string_view text) {
    if (text.empty()) return;
    words.push_back({std::string(text), is_first && text.data() == word.text.data()});
  };
  while (!rest.empty()) {
    const auto [size, matches] = next(rest);
    if (!matches) {
      if (open.empty()) open = rest.substr(0, 0);
      open = {open.data(), open.size() + size};
    } else {
      add(open);
      if (keeps) add(rest.substr(0, size));
    }
    rest.remove_prefix(size);
    if (matches) open = rest.substr(0, 0);
  }
  add(open);
  return words;
}

class ByteLevel final : public Splitter {
 public:
  explicit ByteLevel(const json::Value& value)
      : adds_space_(value_or(value, "add_prefix_space", true)), splits_(value_or(value, "use_regex", true)) {}
  Words split(Word word) const override {
    if (adds_space_ && !word.text.starts_with(' ')) word.text.insert(0, 1, ' ');
    Words words;
    std::string_view rest = word.text;
    for (bool is_first = word.is_first; !rest.empty(); is_first = false) {
      const std::size_t size = splits_ ? kByteLevelRule(rest) : rest.size();
      Word& made = words.emplace_back(Word{"", is_first});
      for (const char c : rest.substr(0, size)) made.text += shown(static_cast<unsigned char>(c));
      rest.remove_prefix(size);
    }
    return words;
  }

 private:
  bool adds_space_, splits_;
};

class ByRule final : public Splitter {
 public:
  explicit ByRule(Rule rule) : rule_(rule) {}
  Words split(Word word) const override {
    return at_matches(std::move(word), [&](std::string_view rest) { return std::pair(rule_(rest), true); }, true);
  }

 private:
  Rule rule_;
};

// At a text, which is a word of its own, dropped, or part of a neighbour.
class ByText final : public Splitter {
 public:
  ByText(std::string text, const std::string& behavior) : text_(std::move(text)), behavior_(behavior) {
    if (text_.empty()) unknown("a pre-tokenizer that splits at an empty text");
    if (behavior != "Isolated" && behavior != "Removed" && behavior != "MergedWithNext" &&
        behavior != "MergedWithPrevious") {
      unknown("a pre-tokenizer Split of the behavior " + behavior);
    }
  }
  Words split(Word word) const override {
    if (behavior_ == "Isolated" || behavior_ == "Removed") {
      const auto next = [&](std::string_view rest) {
        const bool here = rest.starts_with(text_);
        return std::pair(here ? text_.size() : first_size(rest), here);
      };
      return at_matches(std::move(word), next, behavior_ == "Isolated");
    }
    Words words;
    std::string_view rest = word.text;
    bool is_first = word.is_first;
    while (!rest.empty()) {
      std::size_t end = rest.find(text_, behavior_ == "MergedWithNext" && rest.starts_with(text_) ? text_.size() : 0);
      if (end != std::string_view::npos && behavior_ == "MergedWithPrevious") end += text_.size();
      const std::string_view piece = rest.substr(0, end);
      words.push_back({std::string(piece), std::exchange(is_first, false)});
      rest.remove_prefix(piece.size());
    }
    return words;
  }

 private:
  std::string text_, behavior_;
};

// Digits, each a word of its own or those that stand together.
class Digits final : public Splitter {
 public:
  explicit Digits(const json::Value& value) : each_(value_or(value, "individual_digits", false)) {}
  Words split(Word word) const override {
    const auto next = [&](std::string_view rest) {
      const Character first = first_character(rest);
      std::size_t size = first.bytes;
      if (!is_number(first.code)) return std::pair(size, false);
      while (!each_ && size < rest.size()) {
        const Character following = first_character(rest.substr(size));
        if (!is_number(following.code)) break;
        size += following.bytes;
      }
      return std::pair(size, true);
    };
    return at_matches(std::move(word), next, true);
  }

 private:
  bool each_;
};

class AtBlanks final : public Splitter {
 public:
  Words split(Word word) const override {
    const auto next = [](std::string_view rest) {
      const Character first = first_character(rest);
      return std::pair(first.bytes, is_whitespace(first.code));
    };
    return at_matches(std::move(word), next, false);
  }
};

// \w+|[^\w\s]+
class Whitespace final : public Splitter {
 public:
  Words split(Word word) const override {
    const auto kind = [](char32_t code) { return is_word(code) ? 1 : is_whitespace(code) ? 0 : 2; };
    const auto next = [&](std::string_view rest) {
      const Character first = first_character(rest);
      std::size_t size = first.bytes;
      if (kind(first.code) == 0) return std::pair(size, true);
      while (size < rest.size()) {
        const Character following = first_character(rest.substr(size));
        if (kind(following.code) != kind(first.code)) break;
        size += following.bytes;
      }
      return std::pair(size, true);
    };
    Words words;
    for (Word& made : at_matches(std::move(word), next, true)) {
      if (kind(first_character(made.text).code) != 0) words.push_back(std::move(made));
    }
    return words;
  }
};

class AtMetaspace final : public Splitter {
 public:
  explicit AtMetaspace(const json::Value& value)
      : rule_(read_metaspace(value)), at_mark_(rule_.mark, "MergedWithNext") {}
  Words split(Word word) const override {
    std::string text;
    for (const char c : word.text) c == ' ' ? text += rule_.mark : text += c;
    const bool prepends = rule_.prepend == Prepend::kAlways || (rule_.prepend == Prepend::kFirst && word.is_first);
    if (prepends && !text.starts_with(rule_.mark)) text.insert(0, rule_.mark);
    if (!rule_.splits) return {{std::move(text), word.is_first}};
    return at_mark_.split({std::move(text), word.is_first});
  }

 private:
  Metaspace rule_;
  ByText at_mark_;
};

class Sequence final : public Splitter {
 public:
  explicit Sequence(const json::Value& value) {
    for (const json::Value& item : list_of(value, "pretokenizers")) {
      if (auto splitter = read_splitter(&item)) splitters_.push_back(std::move(splitter));
    }
  }
  Words split(Word word) const override {
    Words words = {std::move(word)};
    for (const auto& splitter : splitters_) {
      Words next;
      for (Word& item : words) {
        for (Word& made : splitter->split(std::move(item))) next.push_back(std::move(made));
      }
      words = std::move(next);
    }
    return words;
  }

 private:
  std::vector<std::unique_ptr<Splitter>> splitters_;
};

std::unique_ptr<Splitter> read_split(const json::Value& value) {
  const json::Value& pattern = needed(value, "pattern");
  const std::string behavior = value_or<std::string>(value, "behavior", "");
  const bool is_inverted = value_or(value, "invert", false);
  if (const json::Value* text = member(pattern, "String")) {
    if (is_inverted) unknown("a pre-tokenizer Split that is inverted");
    return std::make_unique<ByText>(as<std::string>(*text, "a pattern"), behavior);
  }
  const std::string& expression = text_of(pattern, "Regex");
  const Rule rule = rule_of(expression);
  if (rule == nullptr) unknown("a pre-tokenizer Split by " + expression);
  // These rules take every character, so that what is between their words is nothing.
  const bool fits = (behavior == "Isolated" && !is_inverted) || (behavior == "Removed" && is_inverted);
  if (!fits) unknown("a pre-tokenizer Split of the behavior " + behavior);
  return std::make_unique<ByRule>(rule);
}

}  // namespace

const std::string& shown(unsigned char byte) {
  static const std::array<std::string, 256> kTable = shown_bytes();
  return kTable[byte];
}

int byte_shown_as(char32_t code) {
  if (code < 0x100) return prints(static_cast<int>(code)) ? static_cast<int>(code) : -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    if (!prints(byte) && next++ == code) return byte;
  }
  return -1;
}

Metaspace read_metaspace(const json::Value& value) {
  const std::string scheme =
      value_or<std::string>(value, "prepend_scheme", value_or(value, "add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") unknown("the prepend_scheme " + scheme);
  const Prepend prepend = scheme == "always" ? Prepend::kAlways : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
  return {text_of(value, "replacement"), prepend, value_or(value, "split", true)};
}

std::unique_ptr<Splitter> read_splitter(const json::Value* splitter) {
  if (splitter == nullptr) return nullptr;
  const std::string type = type_of(*splitter);
  if (type == "Sequence") return std::make_unique<Sequence>(*splitter);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(*splitter);
  if (type == "Split") return read_split(*splitter);
  if (type == "Digits") return std::make_unique<Digits>(*splitter);
  if (type == "WhitespaceSplit") return std::make_unique<AtBlanks>();
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "Metaspace") return std::make_unique<AtMetaspace>(*splitter);
  unknown("the pre-tokenizer " + type);
}

}  // namespace hsm::runtime::text
