#include "runtime/text/sentencepiece.h"

#include <array>
#include <cstdio>
#include <unordered_map>
#include <unordered_set>

#include "runtime/error.h"
#include "runtime/text/normalizing.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

using Type = SentencePieceFile::Type;

std::string byte_piece(unsigned byte) {
  std::array<char, 8> text = {};
  std::snprintf(text.data(), text.size(), "<0x%02X>", byte);
  return text.data();
}

// The bytes of text, with U+FFFD for each that belongs to no character.
std::string text_of_bytes(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const Character character = first_character(bytes);
    text += character.is_valid ? bytes.substr(0, character.bytes) : kReplacement;
    bytes.remove_prefix(character.is_valid ? character.bytes : 1);
  }
  return text;
}

}  // namespace

SentencePiece::SentencePiece(std::span<const std::byte> bytes, const std::string& where)
    : file_(read_sentencepiece(bytes, where)), ids_{file_.pieces, {}, {}, {}, -1} {
  read_pieces(where);
  normalizer_.emplace(std::move(file_.normalizer), file_.spaces_are_suffixes, &ids_.user_defined, where);
  if (file_.denormalizer && !file_.denormalizer->charsmap.empty()) {
    denormalizer_.emplace(std::move(*file_.denormalizer), false, nullptr, where);
  }
  splitter_ = make_splitter(file_.algorithm, ids_);
}

void SentencePiece::read_pieces(const std::string& where) {
  const auto refuse = [&](const std::string& what) { fail(Code::kBadBundle, where + ": " + what); };
  std::unordered_map<std::string, int> bytes;
  if (file_.falls_back_to_bytes) {
    for (unsigned byte = 0; byte < 256; ++byte) bytes.emplace(byte_piece(byte), static_cast<int>(byte));
    bytes_.assign(256, -1);
  }
  std::vector<PieceTable::Entry> texts, user_defined, reserved;
  std::unordered_set<std::string_view> seen_texts, seen_reserved;
  byte_of_.assign(file_.pieces.size(), -1);
  for (std::size_t index = 0; index < file_.pieces.size(); ++index) {
    const SentencePieceFile::Piece& piece = file_.pieces[index];
    const auto id = static_cast<std::int32_t>(index);
    const bool is_text = piece.type == Type::kNormal || piece.type == Type::kUserDefined || piece.type == Type::kUnused;
    if (!(is_text ? seen_texts : seen_reserved).insert(piece.text).second)
      refuse("'" + piece.text + "' is there twice");
    (is_text ? texts : reserved).emplace_back(piece.text, id);
    if (piece.type == Type::kUserDefined) user_defined.emplace_back(piece.text, id);
    if (piece.type == Type::kUnknown && std::exchange(ids_.unknown, id) >= 0) refuse("two pieces are the unknown one");
    if (piece.type != Type::kByte) continue;
    const auto byte = bytes.find(piece.text);
    if (byte == bytes.end()) refuse("'" + piece.text + "' is no byte, or the model has none");
    bytes_[static_cast<std::size_t>(byte->second)] = id;
    byte_of_[index] = byte->second;
  }
  if (ids_.unknown < 0) refuse("no piece is the unknown one");
  if (texts.empty()) refuse("it has no pieces");
  if (std::find(bytes_.begin(), bytes_.end(), -1) != bytes_.end()) refuse("it lacks pieces for bytes");
  ids_.texts = PieceTable(std::move(texts));
  ids_.user_defined = PieceTable(std::move(user_defined));
  ids_.reserved = PieceTable(std::move(reserved));
}

std::vector<std::int64_t> SentencePiece::encode(std::string_view text) const {
  const std::string normal = normalizer_->normalized(text);
  std::vector<std::int64_t> ids;
  bool follows_unknown = false;
  for (const FoundPiece& piece : splitter_->split(normal)) {
    const bool is_unknown = piece.id == ids_.unknown;
    if (is_unknown && !bytes_.empty()) {
      for (const char c : piece.text) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
    } else if (!(is_unknown && follows_unknown)) {  // unknown pieces side by side are one
      ids.push_back(piece.id);
    }
    follows_unknown = is_unknown;
  }
  return ids;
}

std::string SentencePiece::decode(std::span<const std::int64_t> ids) const {
  std::string text, bytes;
  bool is_beginning = true, swallowed_mark = false;
  for (const std::int64_t given : ids) {
    if (given >= vocabulary()) continue;
    // A text may be there twice, as a reserved piece and as another: the library takes the reserved one.
    const std::int32_t id = ids_.id_of(file_.pieces[static_cast<std::size_t>(given)].text);
    if (const int byte = byte_of_[static_cast<std::size_t>(id)]; byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    text += text_of_bytes(std::exchange(bytes, ""));
    if (swallowed_mark || !text.empty()) is_beginning = false;
    text += text_of(id, is_beginning, swallowed_mark);
  }
  text += text_of_bytes(bytes);
  return repaired(denormalizer_ ? denormalizer_->normalized(text) : text);
}

// The text of a piece. The mark that was put before the text is swallowed again, where it was put there.
std::string SentencePiece::text_of(std::int32_t id, bool is_beginning, bool& swallowed_mark) const {
  swallowed_mark = false;
  if (ids_.type_of(id) == Type::kControl) return "";
  if (ids_.type_of(id) == Type::kUnknown) return file_.unknown_surface;
  std::string piece = file_.pieces[static_cast<std::size_t>(id)].text;
  const NormalizerRules& rules = file_.normalizer;
  if (is_beginning && (rules.adds_dummy_prefix || rules.removes_extra_spaces) && piece.starts_with(kSpaceMark)) {
    piece.erase(0, kSpaceMark.size());
    swallowed_mark = !rules.removes_extra_spaces;  // else all marks at the beginning are
  }
  return replaced(std::move(piece), std::string(kSpaceMark), " ");
}

}  // namespace hsm::runtime::text
