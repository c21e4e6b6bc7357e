// The vocabulary of RWKV's World models: of the tokens with which the rest of a text begins, the longest.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/file_tokenizer.h"
#include "runtime/text/model.h"

namespace hsm::runtime::text {

class RwkvVocabulary final : public FileTokenizer {
 public:
  // Lines ID LITERAL LENGTH: an id from 1 on, a literal of Python's str or bytes, and its bytes in UTF-8. Throws
  // Error(kBadBundle).
  RwkvVocabulary(std::string_view file, const std::string& where);

  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::vector<std::int64_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int64_t> ids) const override;

 private:
  std::vector<std::string> tokens_;  // by id; empty where there is none
  Ids ids_;
  std::array<std::vector<std::size_t>, 256> sizes_;  // of the tokens that begin with a byte, the longest first
};

}  // namespace hsm::runtime::text
