// A tokenizer.json of Hugging Face's library tokenizers, as far as this library knows its parts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json.h"
#include "runtime/text/file_tokenizer.h"
#include "runtime/text/joining.h"
#include "runtime/text/model.h"
#include "runtime/text/normalizing.h"
#include "runtime/text/splitting.h"

namespace hsm::runtime::text {

class TokenizerJson final : public FileTokenizer {
 public:
  // Throws Error: kNoBackend names a part that is not known, kBadBundle a file that is none.
  explicit TokenizerJson(const json::Value& document);

  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(count_); }
  std::vector<std::int64_t> encode(std::string_view text) const override;
  // Special tokens and ids without a token have no text, as in the library.
  std::string decode(std::span<const std::int64_t> ids) const override;

 private:
  struct Added {
    std::string content;
    std::int64_t id;
    bool is_special;
  };
  struct Found {
    std::size_t at;
    const Added* token;  // NULL: none
  };

  void read_added(const json::Value& document);
  Found next_added(std::string_view text) const;
  void encode_between(std::string_view text, bool is_first, std::vector<std::int64_t>& ids) const;

  std::vector<Added> added_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<Splitter> splitter_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Joiner> joiner_;
  std::unordered_map<std::int64_t, std::string> tokens_;  // by id; special ones are left out
  std::size_t count_ = 0;
};

}  // namespace hsm::runtime::text
