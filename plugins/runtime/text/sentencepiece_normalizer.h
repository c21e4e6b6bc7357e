// The normaliser of SentencePiece: compiled rules for characters, and what becomes of spaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/piece_table.h"
#include "runtime/text/sentencepiece_file.h"

namespace hsm::runtime::text {

inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

class SentencePieceNormalizer {
 public:
  // untouched: what no rule changes; it stays the caller's. where: names the file. Throws Error(kBadBundle).
  SentencePieceNormalizer(NormalizerRules rules, bool spaces_are_suffixes, const PieceTable* untouched,
                          std::string where);

  // Any bytes are taken. Throws Error(kBadBundle) when the rules turn out to be damaged.
  std::string normalized(std::string_view text) const;

 private:
  struct Step {
    std::string_view text;  // what stands there instead
    std::size_t bytes;      // of the text that it stands for
  };

  // What becomes of the beginning of a text that is not empty.
  Step first_step(std::string_view text) const;
  Step longest_rule(std::string_view text) const;
  std::string_view replacement(std::uint32_t at) const;
  std::uint32_t unit(std::size_t index) const;
  [[noreturn]] void refuse() const;

  NormalizerRules rules_;
  bool spaces_are_suffixes_;
  const PieceTable* untouched_;
  std::string where_;
  // A trie as a double array (Aoe 1989), in the form of the library darts-clone: its leaves hold places in `texts_`.
  std::vector<std::uint32_t> units_;
  std::string texts_;  // each ends with a zero
};

}  // namespace hsm::runtime::text
