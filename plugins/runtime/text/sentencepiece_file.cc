#include "runtime/text/sentencepiece_file.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/protobuf.h"

namespace hsm::runtime::text {
namespace {

using protobuf::Field;
using protobuf::text_of;

class Message : public protobuf::Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& where)
      : protobuf::Message(bytes, where, "SentencePiece model") {}
};

float read_score(const Message& message, const Field& field) {
  if (field.bytes.size() != sizeof(float)) message.refuse();
  static_assert(std::endian::native == std::endian::little);
  float score = 0;
  std::memcpy(&score, field.bytes.data(), sizeof(score));
  if (!std::isfinite(score)) message.refuse();
  return score;
}

template <typename Enum>
Enum read_enum(const Message& message, const Field& field, Enum most) {
  if (field.value < 1 || field.value > static_cast<std::uint64_t>(most)) message.refuse();
  return static_cast<Enum>(field.value);
}

// SentencePiece: piece = 1, score = 2, type = 3.
SentencePieceFile::Piece read_piece(std::span<const std::byte> bytes, const std::string& where) {
  SentencePieceFile::Piece piece;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 1) piece.text = text_of(field->bytes);
    if (field->number == 2) piece.score = read_score(message, *field);
    if (field->number == 3) piece.type = read_enum(message, *field, SentencePieceFile::Type::kByte);
  }
  if (piece.text.empty()) fail(Code::kBadBundle, where + ": a piece is empty");
  if (piece.text.find('\0') != std::string::npos) fail(Code::kBadBundle, where + ": a piece holds the character 0");
  return piece;
}

// TrainerSpec: model_type = 3, treat_whitespace_as_suffix = 24, byte_fallback = 35, unk_surface = 44.
void read_trainer(std::span<const std::byte> bytes, const std::string& where, SentencePieceFile& file) {
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 3) {
      file.algorithm = read_enum(message, *field, SentencePieceFile::Algorithm::kCharacter);
    }
    if (field->number == 24) file.spaces_are_suffixes = field->value != 0;
    if (field->number == 35) file.falls_back_to_bytes = field->value != 0;
    // The library takes it as a C string.
    if (field->number == 44) file.unknown_surface = text_of(field->bytes).c_str();
  }
}

// NormalizerSpec: precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4, escape_whitespaces = 5.
void read_normalizer(std::span<const std::byte> bytes, const std::string& where, NormalizerRules& rules) {
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 2) rules.charsmap = text_of(field->bytes);
    if (field->number == 3) rules.adds_dummy_prefix = field->value != 0;
    if (field->number == 4) rules.removes_extra_spaces = field->value != 0;
    if (field->number == 5) rules.escapes_spaces = field->value != 0;
  }
}

}  // namespace

// ModelProto: pieces = 1, trainer_spec = 2, normalizer_spec = 3, denormalizer_spec = 5.
SentencePieceFile read_sentencepiece(std::span<const std::byte> bytes, const std::string& where) {
  SentencePieceFile file;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 1) file.pieces.push_back(read_piece(field->bytes, where));
    if (field->number == 2) read_trainer(field->bytes, where, file);
    if (field->number == 3) read_normalizer(field->bytes, where, file.normalizer);
    if (field->number == 5) {
      if (!file.denormalizer) file.denormalizer.emplace();
      read_normalizer(field->bytes, where, *file.denormalizer);
    }
  }
  return file;
}

}  // namespace hsm::runtime::text
