// How SentencePiece splits a normalised text into pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "runtime/text/piece_table.h"
#include "runtime/text/sentencepiece_file.h"

namespace hsm::runtime::text {

// What splitting needs to know of the pieces.
struct PieceIds {
  const std::vector<SentencePieceFile::Piece>& pieces;  // by id
  PieceTable texts;                                     // those that text is made of
  PieceTable user_defined;                              // those that are never split
  PieceTable reserved;                                  // others: control, bytes, unknown
  std::int32_t unknown = -1;

  // The id of a piece, the unknown one's for none. Reserved ones come first.
  std::int32_t id_of(std::string_view piece) const;
  SentencePieceFile::Type type_of(std::int32_t id) const { return pieces[static_cast<std::size_t>(id)].type; }
  float score_of(std::int32_t id) const { return pieces[static_cast<std::size_t>(id)].score; }
};

struct FoundPiece {
  std::string_view text;
  std::int32_t id;
};

class PieceSplitter {
 public:
  virtual ~PieceSplitter() = default;
  // The pieces of a text, which together are the text. Any bytes are taken.
  virtual std::vector<FoundPiece> split(std::string_view text) const = 0;
};

// `ids` stay the caller's.
std::unique_ptr<PieceSplitter> make_splitter(SentencePieceFile::Algorithm algorithm, const PieceIds& ids);

}  // namespace hsm::runtime::text
