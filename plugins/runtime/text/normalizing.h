// What happens to a text before it is split: the normalizers of a tokenizer.json.
#pragma once

#include <memory>
#include <string>

#include "runtime/json.h"

namespace hsm::runtime::text {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string normalized(std::string text) const = 0;
};

// Reads a normalizer: Prepend, Replace, NFC, NFKC or a Sequence of them; NULL for none. Throws Error(kNoBackend) for
// what it does not know.
std::unique_ptr<Normalizer> read_normalizer(const json::Value* normalizer);

// The text with every `from` replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to);

}  // namespace hsm::runtime::text
