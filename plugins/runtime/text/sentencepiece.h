// The models of Google's SentencePiece (Kudo and Richardson 2018), as their .model files describe them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/file_tokenizer.h"
#include "runtime/text/sentencepiece_file.h"
#include "runtime/text/sentencepiece_normalizer.h"
#include "runtime/text/sentencepiece_splitting.h"

namespace hsm::runtime::text {

class SentencePiece final : public FileTokenizer {
 public:
  // Throws Error(kBadBundle): damaged, or no such file. where: names it.
  SentencePiece(std::span<const std::byte> bytes, const std::string& where);

  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(file_.pieces.size()); }
  // Control pieces within the text are text, as in the library.
  std::vector<std::int64_t> encode(std::string_view text) const override;
  // Control pieces have no text.
  std::string decode(std::span<const std::int64_t> ids) const override;

 private:
  void read_pieces(const std::string& where);
  std::string text_of(std::int32_t id, bool is_beginning, bool& swallowed_mark) const;

  SentencePieceFile file_;
  PieceIds ids_;
  std::vector<std::int32_t> bytes_;  // the id of each byte; empty: no byte fallback
  std::vector<int> byte_of_;         // by id; -1 for those that are no byte
  std::optional<SentencePieceNormalizer> normalizer_, denormalizer_;
  std::unique_ptr<PieceSplitter> splitter_;
};

}  // namespace hsm::runtime::text
