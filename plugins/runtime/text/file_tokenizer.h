// A tokenizer that a file describes, whatever its kind.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hsm::runtime::text {

class FileTokenizer {
 public:
  FileTokenizer() = default;
  FileTokenizer(const FileTokenizer&) = delete;
  FileTokenizer& operator=(const FileTokenizer&) = delete;
  virtual ~FileTokenizer() = default;

  virtual std::int64_t vocabulary() const = 0;
  // The text is valid UTF-8. Throws Error(kInvalidArgument) for text that the tokenizer has no ids for.
  virtual std::vector<std::int64_t> encode(std::string_view text) const = 0;
  // Valid UTF-8. Ids are not negative; those without a token have no text.
  virtual std::string decode(std::span<const std::int64_t> ids) const = 0;
};

}  // namespace hsm::runtime::text
