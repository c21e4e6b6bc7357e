// From text to words: the pre-tokenizers of a tokenizer.json.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json.h"

namespace hsm::runtime::text {

// A piece of a text in valid UTF-8.
struct Word {
  std::string text;
  bool is_first;  // it lies at the beginning of the whole text
};
using Words = std::vector<Word>;

class Splitter {
 public:
  virtual ~Splitter() = default;
  virtual Words split(Word word) const = 0;
};

// Reads a pre-tokenizer: ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit or a Sequence of them; NULL
// for none. Throws Error(kNoBackend) for what it does not know.
std::unique_ptr<Splitter> read_splitter(const json::Value* splitter);

// Whether a Metaspace puts its mark before a word.
enum class Prepend { kAlways, kFirst, kNever };
struct Metaspace {
  std::string mark;
  Prepend prepend;
  bool splits;
};
Metaspace read_metaspace(const json::Value& value);

// A byte as the character that ByteLevel shows it as, and back (-1: none).
const std::string& shown(unsigned char byte);
int byte_shown_as(char32_t code);

// The length of the first word by one of the regular expressions that published tokenizers split text with.
using Rule = std::size_t (*)(std::string_view text);
// NULL for one that is not known.
Rule rule_of(std::string_view regular_expression);
// That of ByteLevel (GPT-2's).
extern const Rule kByteLevelRule;

}  // namespace hsm::runtime::text
