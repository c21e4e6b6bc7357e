#include "runtime/text/sentencepiece_splitting.h"

#include <limits>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>

#include "runtime/text/sentencepiece_normalizer.h"

namespace hsm::runtime::text {
namespace {

using Type = SentencePieceFile::Type;

// The bytes of the first character, by its first byte alone.
std::size_t character_size(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const std::size_t bytes = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  return std::min(bytes, text.size());
}

// The unigram language model (Kudo 2018): the pieces whose scores add up to most. Scores are kept in float32 as the
// library keeps them, for sums that are nearly equal.
class UnigramSplitter final : public PieceSplitter {
 public:
  explicit UnigramSplitter(const PieceIds& ids) : ids_(ids) {
    float least = std::numeric_limits<float>::max();
    for (const auto& piece : ids.pieces) {
      if (piece.type != Type::kNormal) continue;
      least = std::min(least, piece.score);
      most_ = std::max(most_, piece.score);
    }
    unknown_score_ = least - kUnknownPenalty;
  }

  std::vector<FoundPiece> split(std::string_view text) const override {
    const std::vector<Node> nodes = best_ways(text);
    std::vector<FoundPiece> found;
    for (std::size_t end = text.size(); end > 0; end = nodes[end].start) {
      found.push_back({text.substr(nodes[end].start, end - nodes[end].start), nodes[end].id});
    }
    std::reverse(found.begin(), found.end());
    return found;
  }

 private:
  static constexpr float kUnknownPenalty = 10;
  struct Node {
    std::int32_t id = -1;  // -1: not reached
    float score = 0;
    std::size_t start = 0;
  };

  // The best way to each place of the text.
  std::vector<Node> best_ways(std::string_view text) const {
    std::vector<Node> nodes(text.size() + 1);
    for (std::size_t start = 0; start < text.size();) {
      const std::string_view rest = text.substr(start);
      const float till_here = nodes[start].score;
      const auto offer = [&](std::size_t bytes, std::int32_t id, double score) {
        Node& node = nodes[start + bytes];
        if (node.id < 0 || score > node.score) node = {id, static_cast<float>(score), start};
      };
      const std::size_t one = character_size(rest);
      bool has_one = false;
      ids_.texts.visit_prefixes(rest, [&](std::size_t bytes, std::int32_t id) {
        if (ids_.type_of(id) == Type::kUnused) return;
        offer(bytes, id, score_of(id, bytes) + till_here);
        has_one = has_one || bytes == one;
      });
      if (!has_one) offer(one, ids_.unknown, unknown_score_ + till_here);
      start += one;
    }
    return nodes;
  }

  // User-defined pieces win over all others.
  double score_of(std::int32_t id, std::size_t bytes) const {
    if (ids_.type_of(id) != Type::kUserDefined) return ids_.score_of(id);
    return static_cast<float>(bytes) * most_ - 0.1;
  }

  const PieceIds& ids_;
  float most_ = std::numeric_limits<float>::min();
  float unknown_score_ = 0;
};

// Byte-pair encoding (Sennrich et al. 2016): neighbours whose union has the highest score are merged first, then from
// the left. Unused pieces are merged too, and taken apart at the end.
class BpeSplitter final : public PieceSplitter {
 public:
  explicit BpeSplitter(const PieceIds& ids) : ids_(ids) {
    for (std::size_t id = 0; id < ids.pieces.size(); ++id) {
      const auto& piece = ids.pieces[id];
      if (piece.type != Type::kNormal && piece.type != Type::kUserDefined && piece.type != Type::kUnused) continue;
      known_.emplace(piece.text, static_cast<std::int32_t>(id));
      longest_ = std::max(longest_, piece.text.size());
    }
  }

  std::vector<FoundPiece> split(std::string_view text) const override {
    Work work(*this, text);
    work.merge();
    return work.pieces();
  }

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  struct Symbol {
    std::size_t before, after;
    bool is_frozen;
    std::string_view text;  // empty when another has swallowed it
  };
  struct Merge {
    std::size_t left, right;
    float score;
    std::size_t bytes;
    bool operator<(const Merge& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  class Work {
   public:
    Work(const BpeSplitter& splitter, std::string_view text) : splitter_(splitter) {
      while (!text.empty()) {
        std::size_t bytes = splitter_.ids_.user_defined.longest_prefix(text);
        const bool is_frozen = bytes > 0;
        if (!is_frozen) bytes = character_size(text);
        const std::size_t index = symbols_.size();
        symbols_.push_back({index == 0 ? kNone : index - 1, index + 1, is_frozen, text.substr(0, bytes)});
        text.remove_prefix(bytes);
      }
      if (!symbols_.empty()) symbols_.back().after = kNone;
    }

    void merge() {
      for (std::size_t i = 1; i < symbols_.size(); ++i) offer(i - 1, i);
      while (!queue_.empty()) {
        const Merge best = queue_.top();
        queue_.pop();
        Symbol &left = symbols_[best.left], &right = symbols_[best.right];
        const bool is_stale =
            left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != best.bytes;
        if (is_stale) continue;
        left.text = united(left.text, right.text);
        left.after = right.after;
        if (right.after != kNone) symbols_[right.after].before = best.left;
        right.text = {};
        offer(left.before, best.left);
        offer(best.left, left.after);
      }
    }

    std::vector<FoundPiece> pieces() const {
      std::vector<FoundPiece> found;
      for (const Symbol& symbol : symbols_) {
        if (!symbol.text.empty()) add(symbol.text, found);
      }
      return found;
    }

   private:
    static std::string_view united(std::string_view left, std::string_view right) {
      return {left.data(), left.size() + right.size()};
    }

    void offer(std::size_t left, std::size_t right) {
      if (left == kNone || right == kNone || symbols_[left].is_frozen || symbols_[right].is_frozen) return;
      const std::string_view piece = united(symbols_[left].text, symbols_[right].text);
      if (piece.size() > splitter_.longest_) return;
      const auto known = splitter_.known_.find(piece);
      if (known == splitter_.known_.end()) return;
      queue_.push({left, right, splitter_.ids_.score_of(known->second), piece.size()});
      if (splitter_.ids_.type_of(known->second) == Type::kUnused) parts_[piece] = symbols_[left].text.size();
    }

    // Takes unused pieces apart into what they were merged from.
    void add(std::string_view piece, std::vector<FoundPiece>& found) const {
      std::vector<std::string_view> open = {piece};
      while (!open.empty()) {
        const std::string_view next = open.back();
        open.pop_back();
        const std::int32_t id = splitter_.ids_.id_of(next);
        const auto parts = splitter_.ids_.type_of(id) == Type::kUnused ? parts_.find(next) : parts_.end();
        if (parts == parts_.end()) {
          found.push_back({next, id});
        } else {
          open.push_back(next.substr(parts->second));
          open.push_back(next.substr(0, parts->second));
        }
      }
    }

    const BpeSplitter& splitter_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Merge> queue_;
    std::unordered_map<std::string_view, std::size_t> parts_;  // of unused pieces: the bytes of the left one
  };

  const PieceIds& ids_;
  std::unordered_map<std::string_view, std::int32_t> known_;
  std::size_t longest_ = 0;
};

// Every character is a piece.
class CharacterSplitter final : public PieceSplitter {
 public:
  explicit CharacterSplitter(const PieceIds& ids) : ids_(ids) {}

  std::vector<FoundPiece> split(std::string_view text) const override {
    std::vector<FoundPiece> found;
    while (!text.empty()) {
      std::size_t bytes = ids_.user_defined.longest_prefix(text);
      if (bytes == 0) bytes = character_size(text);
      found.push_back({text.substr(0, bytes), ids_.id_of(text.substr(0, bytes))});
      text.remove_prefix(bytes);
    }
    return found;
  }

 private:
  const PieceIds& ids_;
};

// Every word is a piece, which begins with a mark for the space before it.
class WordSplitter final : public PieceSplitter {
 public:
  explicit WordSplitter(const PieceIds& ids) : ids_(ids) {}

  std::vector<FoundPiece> split(std::string_view text) const override {
    std::vector<FoundPiece> found;
    while (!text.empty()) {
      const std::size_t begin = text.starts_with(kSpaceMark) ? kSpaceMark.size() : character_size(text);
      const std::string_view word = text.substr(0, text.find(kSpaceMark, begin));
      found.push_back({word, ids_.id_of(word)});
      text.remove_prefix(word.size());
    }
    return found;
  }

 private:
  const PieceIds& ids_;
};

}  // namespace

std::int32_t PieceIds::id_of(std::string_view piece) const {
  for (const PieceTable* table : {&reserved, &texts}) {
    std::int32_t found = -1;
    table->visit_prefixes(piece, [&](std::size_t bytes, std::int32_t id) {
      if (bytes == piece.size()) found = id;
    });
    if (found >= 0) return found;
  }
  return unknown;
}

std::unique_ptr<PieceSplitter> make_splitter(SentencePieceFile::Algorithm algorithm, const PieceIds& ids) {
  using Algorithm = SentencePieceFile::Algorithm;
  if (algorithm == Algorithm::kBpe) return std::make_unique<BpeSplitter>(ids);
  if (algorithm == Algorithm::kWord) return std::make_unique<WordSplitter>(ids);
  if (algorithm == Algorithm::kCharacter) return std::make_unique<CharacterSplitter>(ids);
  return std::make_unique<UnigramSplitter>(ids);
}

}  // namespace hsm::runtime::text
