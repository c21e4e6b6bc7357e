// What a .model file of SentencePiece says (its sentencepiece_model.proto).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hsm::runtime::text {

// How text is rewritten before it is split, or after it was put together.
struct NormalizerRules {
  std::string charsmap;  // compiled rules; empty for none
  bool adds_dummy_prefix = true;
  bool removes_extra_spaces = true;
  bool escapes_spaces = true;
};

struct SentencePieceFile {
  enum class Algorithm { kUnigram = 1, kBpe = 2, kWord = 3, kCharacter = 4 };
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };

  std::vector<Piece> pieces;  // by id
  Algorithm algorithm = Algorithm::kUnigram;
  bool falls_back_to_bytes = false;
  bool spaces_are_suffixes = false;
  std::string unknown_surface = " \xe2\x81\x87 ";
  NormalizerRules normalizer;
  std::optional<NormalizerRules> denormalizer;
};

// Throws Error(kBadBundle): damaged, or no such file.
SentencePieceFile read_sentencepiece(std::span<const std::byte> bytes, const std::string& where);

}  // namespace hsm::runtime::text
