// From words to token ids: the models of a tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/json.h"

namespace hsm::runtime::text {

// Lets a table of strings be asked with views.
struct TextHash : std::hash<std::string_view> {
  using is_transparent = void;
};
using Ids = std::unordered_map<std::string, std::int64_t, TextHash, std::equal_to<>>;

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of a word in valid UTF-8.
  virtual void tokenize(std::string_view word, std::vector<std::int64_t>& ids) const = 0;

  const Ids& ids() const { return ids_; }

 protected:
  // The id of a token; -1 for none.
  std::int64_t id_of(std::string_view token) const;
  // Appends the ids of the tokens <0x00> .. <0xFF> of some bytes; false, and nothing, when one is missing.
  bool append_bytes(std::string_view bytes, std::vector<std::int64_t>& ids) const;

  Ids ids_;
};

// Reads the model of a tokenizer.json: BPE, WordLevel or Unigram. Throws Error: kNoBackend for what it does not know,
// kBadBundle for what is none.
std::unique_ptr<Model> read_model(const json::Value& model);

}  // namespace hsm::runtime::text
