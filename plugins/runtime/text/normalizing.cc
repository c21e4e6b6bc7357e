#include "runtime/text/normalizing.h"

#include <vector>

#include "runtime/text/json_fields.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  std::string normalized(std::string text) const override { return text.empty() ? text : text_ + text; }

 private:
  std::string text_;
};

class Replace final : public Normalizer {
 public:
  Replace(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  std::string normalized(std::string text) const override { return replaced(std::move(text), from_, to_); }

 private:
  std::string from_, to_;
};

// Takes text that is in the normal form already, as nearly all text is, and refuses other: there are no tables here.
class NormalForm final : public Normalizer {
 public:
  explicit NormalForm(bool compatibility) : compatibility_(compatibility) {}
  std::string normalized(std::string text) const override {
    if (is_normal(text, compatibility_)) return text;
    fail(Code::kInvalidArgument, std::string("the tokenizer wants text in Unicode's normal form ") +
                                     (compatibility_ ? "KC" : "C") +
                                     ", and this text holds characters that it may change: normalise it before");
  }

 private:
  bool compatibility_;
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(const json::Value& value) {
    for (const json::Value& item : list_of(value, "normalizers")) {
      if (auto part = read_normalizer(&item)) parts_.push_back(std::move(part));
    }
  }
  std::string normalized(std::string text) const override {
    for (const auto& part : parts_) text = part->normalized(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::unique_ptr<Normalizer> read_normalizer(const json::Value* normalizer) {
  if (normalizer == nullptr) return nullptr;
  const std::string type = type_of(*normalizer);
  if (type == "Sequence") return std::make_unique<Sequence>(*normalizer);
  if (type == "Prepend") return std::make_unique<Prepend>(text_of(*normalizer, "prepend"));
  if (type == "NFC" || type == "NFKC") return std::make_unique<NormalForm>(type == "NFKC");
  if (type == "Replace") {
    const json::Value* from = member(needed(*normalizer, "pattern"), "String");
    if (from == nullptr) unknown("a normalizer Replace by a regular expression");
    const std::string& text = as<std::string>(*from, "a pattern");
    if (text.empty()) unknown("a normalizer Replace of an empty text");
    return std::make_unique<Replace>(text, text_of(*normalizer, "content"));
  }
  unknown("the normalizer " + type);
}

}  // namespace hsm::runtime::text
