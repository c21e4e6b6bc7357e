#include "runtime/text/joining.h"

#include <cctype>
#include <cstdlib>
#include <optional>

#include "runtime/text/json_fields.h"
#include "runtime/text/normalizing.h"
#include "runtime/text/splitting.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

using Tokens = std::vector<std::string>;

std::string concatenated(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

class Spaces final : public Joiner {
 public:
  Tokens joined(Tokens tokens) const override {
    for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
    return tokens;
  }
};

class Fuse final : public Joiner {
 public:
  Tokens joined(Tokens tokens) const override { return {concatenated(tokens)}; }
};

class ByteLevel final : public Joiner {
 public:
  Tokens joined(Tokens tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) append_bytes(token, bytes);
    return {repaired(bytes)};
  }

 private:
  // A token with a character that shows no byte is text as it is.
  static void append_bytes(std::string_view token, std::string& bytes) {
    const std::size_t before = bytes.size();
    for (std::string_view rest = token; !rest.empty();) {
      const Character character = first_character(rest);
      const int byte = byte_shown_as(character.code);
      if (byte < 0) {
        bytes.resize(before);
        bytes += token;
        return;
      }
      bytes += static_cast<char>(byte);
      rest.remove_prefix(character.bytes);
    }
  }
};

// Tokens <0x00> .. <0xFF> side by side are the bytes of text, or a replacement character each.
class ByteFallback final : public Joiner {
 public:
  Tokens joined(Tokens tokens) const override {
    Tokens made;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (is_utf8(bytes)) {
        made.push_back(bytes);
      } else {
        made.insert(made.end(), bytes.size(), std::string(kReplacement));
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const std::optional<char> byte = byte_of(token)) {
        bytes += *byte;
      } else {
        flush();
        made.push_back(std::move(token));
      }
    }
    flush();
    return made;
  }

 private:
  static std::optional<char> byte_of(const std::string& token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
    const bool is_hex = std::isxdigit(static_cast<unsigned char>(token[3])) != 0 &&
                        std::isxdigit(static_cast<unsigned char>(token[4])) != 0;
    if (!is_hex) return std::nullopt;
    return static_cast<char>(std::strtol(token.substr(3, 2).c_str(), nullptr, 16));
  }
};

class Replace final : public Joiner {
 public:
  Replace(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  Tokens joined(Tokens tokens) const override {
    for (std::string& token : tokens) token = replaced(std::move(token), from_, to_);
    return tokens;
  }

 private:
  std::string from_, to_;
};

// Takes up to so many of a text from the beginning and the end of every token.
class Strip final : public Joiner {
 public:
  explicit Strip(const json::Value& value)
      : text_(text_of(value, "content")),
        start_(value_or<std::int64_t>(value, "start", 0)),
        stop_(value_or<std::int64_t>(value, "stop", 0)) {
    if (text_.empty()) unknown("a decoder Strip of an empty text");
  }
  Tokens joined(Tokens tokens) const override {
    for (std::string& token : tokens) {
      for (std::int64_t i = 0; i < start_ && token.starts_with(text_); ++i) token.erase(0, text_.size());
      for (std::int64_t i = 0; i < stop_ && token.ends_with(text_); ++i) token.resize(token.size() - text_.size());
    }
    return tokens;
  }

 private:
  std::string text_;
  std::int64_t start_, stop_;
};

// Marks are spaces, but for those of the first token where one was put before the text.
class FromMetaspace final : public Joiner {
 public:
  explicit FromMetaspace(const json::Value& value) : rule_(read_metaspace(value)) {}
  Tokens joined(Tokens tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const bool drops = i == 0 && rule_.prepend != Prepend::kNever;
      tokens[i] = replaced(std::move(tokens[i]), rule_.mark, drops ? "" : " ");
    }
    return tokens;
  }

 private:
  Metaspace rule_;
};

class Sequence final : public Joiner {
 public:
  explicit Sequence(const json::Value& value) {
    for (const json::Value& item : list_of(value, "decoders")) parts_.push_back(read_joiner(&item));
  }
  Tokens joined(Tokens tokens) const override {
    for (const auto& part : parts_) tokens = part->joined(std::move(tokens));
    return tokens;
  }

 private:
  std::vector<std::unique_ptr<Joiner>> parts_;
};

std::unique_ptr<Joiner> read_replace(const json::Value& value) {
  const json::Value* from = member(needed(value, "pattern"), "String");
  if (from == nullptr) unknown("a decoder Replace by a regular expression");
  const std::string& text = as<std::string>(*from, "a pattern");
  if (text.empty()) unknown("a decoder Replace of an empty text");
  return std::make_unique<Replace>(text, text_of(value, "content"));
}

}  // namespace

std::unique_ptr<Joiner> read_joiner(const json::Value* decoder) {
  if (decoder == nullptr) return std::make_unique<Spaces>();
  const std::string type = type_of(*decoder);
  if (type == "Sequence") return std::make_unique<Sequence>(*decoder);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "Metaspace") return std::make_unique<FromMetaspace>(*decoder);
  if (type == "Fuse") return std::make_unique<Fuse>();
  if (type == "ByteFallback") return std::make_unique<ByteFallback>();
  if (type == "Replace") return read_replace(*decoder);
  if (type == "Strip") return std::make_unique<Strip>(*decoder);
  unknown("the decoder " + type);
}

}  // namespace hsm::runtime::text
