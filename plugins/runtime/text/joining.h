// From tokens to text: the decoders of a tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/json.h"

namespace hsm::runtime::text {

class Joiner {
 public:
  virtual ~Joiner() = default;
  // The tokens after this step; the text is all of them, one after the other.
  virtual std::vector<std::string> joined(std::vector<std::string> tokens) const = 0;
};

// Reads a decoder: ByteLevel, Metaspace, Fuse, ByteFallback, Replace, Strip or a Sequence of them; none puts spaces
// between the tokens. Throws Error(kNoBackend) for what it does not know.
std::unique_ptr<Joiner> read_joiner(const json::Value* decoder);

}  // namespace hsm::runtime::text
