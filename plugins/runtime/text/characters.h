// Token ids that stand for characters, one each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/json.h"
#include "runtime/text/file_tokenizer.h"

namespace hsm::runtime::text {

class Characters final : public FileTokenizer {
 public:
  // {"characters": TEXT}: the characters by id. Throws Error(kBadBundle).
  Characters(const json::Value& document, const std::string& where);

  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(characters_.size()); }
  std::vector<std::int64_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int64_t> ids) const override;

 private:
  std::vector<std::string> characters_;  // by id
  std::unordered_map<char32_t, std::int64_t> ids_;
};

}  // namespace hsm::runtime::text
