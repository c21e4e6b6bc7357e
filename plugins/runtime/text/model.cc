#include "runtime/text/model.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>
#include <queue>
#include <tuple>

#include "runtime/text/json_fields.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

constexpr std::int64_t kMostIds = std::int64_t{1} << 31;

Ids read_vocabulary(const json::Value& model) {
  Ids ids;
  for (const auto& [token, id] : as<json::Members>(needed(model, "vocab"), "tokenizer.json: 'vocab'")) {
    const std::int64_t number = as<std::int64_t>(id, "an id of tokenizer.json");
    if (number < 0 || number >= kMostIds) fail(Code::kBadBundle, "an id of tokenizer.json is out of range");
    ids.emplace(token, number);
  }
  return ids;
}

class WordLevel final : public Model {
 public:
  explicit WordLevel(const json::Value& model) : unknown_(text_of(model, "unk_token")) {
    ids_ = read_vocabulary(model);
  }
  void tokenize(std::string_view word, std::vector<std::int64_t>& ids) const override {
    const std::int64_t id = id_of(word), other = id_of(unknown_);
    if (id < 0 && other < 0)
      fail(Code::kInvalidArgument, "the tokenizer has neither that word nor a token for unknown ones");
    ids.push_back(id >= 0 ? id : other);
  }

 private:
  std::string unknown_;
};

// Byte-pair encoding (Sennrich et al. 2016): neighbours are merged, those of the lowest rank first, then from the left.
class Bpe final : public Model {
 public:
  explicit Bpe(const json::Value& model)
      : falls_back_(value_or(model, "byte_fallback", false)),
        fuses_unknown_(value_or(model, "fuse_unk", false)),
        ignores_merges_(value_or(model, "ignore_merges", false)) {
    refuse_set(model, {"dropout", "continuing_subword_prefix", "end_of_word_suffix"});
    ids_ = read_vocabulary(model);
    if (const std::string token = value_or<std::string>(model, "unk_token", ""); !token.empty()) {
      unknown_ = id_of(token);
      if (unknown_ < 0) fail(Code::kBadBundle, "tokenizer.json: its unknown token '" + token + "' has no id");
    }
    for (const json::Value& item : list_of(model, "merges")) add_merge(item);
  }

  void tokenize(std::string_view word, std::vector<std::int64_t>& ids) const override {
    if (word.empty()) return;
    if (ignores_merges_) {
      if (const std::int64_t id = id_of(word); id >= 0) return ids.push_back(id);
    }
    std::vector<std::int64_t> symbols;
    bool unknown_waits = false;
    const auto flush = [&] {
      if (unknown_waits) symbols.push_back(unknown_);
      unknown_waits = false;
    };
    for (; !word.empty(); word.remove_prefix(first_size(word))) {
      const std::string_view character = word.substr(0, first_size(word));
      if (const std::int64_t id = id_of(character); id >= 0) {
        flush();
        symbols.push_back(id);
      } else if (!(falls_back_ && append_bytes(character, symbols)) && unknown_ >= 0) {
        if (!fuses_unknown_) flush();
        unknown_waits = true;
      }
    }
    flush();
    merge(symbols);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }

 private:
  struct Merge {
    std::int64_t rank, id;
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  struct PairHash {
    std::size_t operator()(const Pair& pair) const {
      return std::hash<std::int64_t>()((pair.first << 32) ^ pair.second);
    }
  };

  void add_merge(const json::Value& item) {
    std::string left, right;
    if (const auto* pair = std::get_if<json::Array>(&item.value)) {
      if (pair->size() != 2) fail(Code::kBadBundle, "tokenizer.json: a merge is not of two tokens");
      left = as<std::string>((*pair)[0], "a merge"), right = as<std::string>((*pair)[1], "a merge");
    } else {
      const std::string& text = as<std::string>(item, "a merge");
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        fail(Code::kBadBundle, "tokenizer.json: a merge is not of two tokens");
      }
      left = text.substr(0, space), right = text.substr(space + 1);
    }
    const std::int64_t a = id_of(left), b = id_of(right), both = id_of(left + right);
    if (a < 0 || b < 0 || both < 0) fail(Code::kBadBundle, "tokenizer.json merges a token that has no id");
    merges_[{a, b}] = {static_cast<std::int64_t>(merges_.size()), both};
  }

  const Merge* merge_of(std::int64_t a, std::int64_t b) const {
    const auto found = merges_.find({a, b});
    return found == merges_.end() ? nullptr : &found->second;
  }

  void merge(std::vector<std::int64_t>& ids) const {
    constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
    using Candidate = std::tuple<std::int64_t, std::size_t, std::int64_t>;  // rank, place, id
    std::vector<std::size_t> before(ids.size()), after(ids.size());
    std::vector<bool> is_gone(ids.size());
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto add = [&](std::size_t place) {
      if (place == kNone || after[place] == kNone) return;
      if (const Merge* merge = merge_of(ids[place], ids[after[place]])) queue.emplace(merge->rank, place, merge->id);
    };
    for (std::size_t i = 0; i < ids.size(); ++i) {
      before[i] = i == 0 ? kNone : i - 1;
      after[i] = i + 1 == ids.size() ? kNone : i + 1;
    }
    for (std::size_t i = 0; i < ids.size(); ++i) add(i);
    while (!queue.empty()) {
      const auto [rank, place, id] = queue.top();
      queue.pop();
      if (is_gone[place] || after[place] == kNone) continue;
      const std::size_t next = after[place];
      const Merge* merge = merge_of(ids[place], ids[next]);
      if (merge == nullptr || merge->id != id) continue;  // one of the two has become another token
      ids[place] = id;
      is_gone[next] = true;
      after[place] = after[next];
      if (after[next] != kNone) before[after[next]] = place;
      add(before[place]);
      add(place);
    }
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!is_gone[i]) ids[kept++] = ids[i];
    }
    ids.resize(kept);
  }

  std::unordered_map<Pair, Merge, PairHash> merges_;
  std::int64_t unknown_ = -1;
  bool falls_back_, fuses_unknown_, ignores_merges_;
};

// The unigram language model (Kudo 2018): the pieces whose scores add up to most.
class Unigram final : public Model {
 public:
  explicit Unigram(const json::Value& model)
      : falls_back_(value_or(model, "byte_fallback", false)), unknown_(value_or<std::int64_t>(model, "unk_id", -1)) {
    for (const json::Value& item : list_of(model, "vocab")) {
      const auto& pair = as<json::Array>(item, "a piece of tokenizer.json");
      if (pair.size() != 2) fail(Code::kBadBundle, "tokenizer.json: a piece is not a text and a score");
      const std::string& piece = as<std::string>(pair[0], "a piece of tokenizer.json");
      ids_[piece] = static_cast<std::int64_t>(scores_.size());
      scores_.push_back(as_number(pair[1], "a score of tokenizer.json"));
      longest_ = std::max(longest_, piece.size());
      least_ = std::min(least_, scores_.back());
    }
    if (unknown_ >= static_cast<std::int64_t>(scores_.size()))
      fail(Code::kBadBundle, "tokenizer.json: 'unk_id' is no id");
  }

  void tokenize(std::string_view word, std::vector<std::int64_t>& ids) const override {
    const std::vector<Node> nodes = best_paths(word);
    std::vector<std::string_view> pieces;
    bool is_open = false;  // unknown pieces side by side are one
    for (std::size_t end = word.size(); end > 0; end = nodes[end].start) {
      const Node& node = nodes[end];
      const std::string_view piece = word.substr(node.start, end - node.start);
      const bool is_unknown = unknown_ >= 0 && node.id == unknown_;
      if (is_unknown && is_open) {
        pieces.back() = word.substr(node.start, piece.size() + pieces.back().size());
      } else {
        pieces.push_back(piece);
      }
      is_open = is_unknown;
    }
    for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
      if (const std::int64_t id = id_of(*piece); id >= 0) {
        ids.push_back(id);
      } else if (!falls_back_ || !append_bytes(*piece, ids)) {
        if (unknown_ < 0) refuse();
        ids.push_back(unknown_);
      }
    }
  }

 private:
  struct Node {
    std::int64_t id = -1;
    double score = 0;
    std::size_t start = 0;
    bool is_reached = false;
  };

  [[noreturn]] static void refuse() {
    fail(Code::kInvalidArgument, "the tokenizer has no pieces for this text and no token for unknown ones");
  }

  // The best way to each place of the word.
  std::vector<Node> best_paths(std::string_view word) const {
    constexpr double kUnknownPenalty = 10;
    std::vector<Node> nodes(word.size() + 1);
    for (std::size_t start = 0; start < word.size();) {
      const double till_here = nodes[start].score;
      const std::size_t one = first_size(word.substr(start));
      bool has_one = false;
      const auto offer = [&](std::size_t size, std::int64_t id, double score) {
        Node& node = nodes[start + size];
        if (!node.is_reached || score > node.score) node = {id, score, start, true};
      };
      for (std::size_t size = one; size <= std::min(longest_, word.size() - start);) {
        if (const std::int64_t id = id_of(word.substr(start, size)); id >= 0) {
          offer(size, id, scores_[static_cast<std::size_t>(id)] + till_here);
          has_one = has_one || size == one;
        }
        if (start + size == word.size()) break;
        size += first_size(word.substr(start + size));
      }
      if (!has_one) {
        if (unknown_ < 0) refuse();
        offer(one, unknown_, least_ - kUnknownPenalty + till_here);
      }
      start += one;
    }
    return nodes;
  }

  std::vector<double> scores_;
  std::size_t longest_ = 0;
  double least_ = std::numeric_limits<double>::infinity();
  bool falls_back_;
  std::int64_t unknown_;
};

}  // namespace

std::int64_t Model::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

bool Model::append_bytes(std::string_view bytes, std::vector<std::int64_t>& ids) const {
  const std::size_t before = ids.size();
  for (const char c : bytes) {
    std::array<char, 8> token = {};
    std::snprintf(token.data(), token.size(), "<0x%02X>", static_cast<unsigned>(static_cast<unsigned char>(c)));
    ids.push_back(id_of(token.data()));
    if (ids.back() >= 0) continue;
    ids.resize(before);
    return false;
  }
  return true;
}

std::unique_ptr<Model> read_model(const json::Value& model) {
  const std::string type = type_of(model);
  if (type == "BPE") return std::make_unique<Bpe>(model);
  if (type == "WordLevel") return std::make_unique<WordLevel>(model);
  if (type == "Unigram") return std::make_unique<Unigram>(model);
  if (type.empty()) unknown("a model of no type");
  unknown("the model " + type);
}

}  // namespace hsm::runtime::text
