#include "runtime/text/sentencepiece_normalizer.h"

#include <cstring>
#include <utility>

#include "runtime/error.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

// A damaged file must not make a short text fill the memory; the longest replacement of NFKC has 33 bytes.
constexpr std::size_t kLongestReplacement = 1024;

// The bits of a unit of darts-clone.
bool has_leaf(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7fffffffu; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000ffu; }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

}  // namespace

SentencePieceNormalizer::SentencePieceNormalizer(NormalizerRules rules, bool spaces_are_suffixes,
                                                 const PieceTable* untouched, std::string where)
    : rules_(std::move(rules)),
      spaces_are_suffixes_(spaces_are_suffixes),
      untouched_(untouched),
      where_(std::move(where)) {
  const std::string charsmap = std::exchange(rules_.charsmap, "");
  if (charsmap.empty()) return;
  std::uint32_t trie_bytes = 0;
  constexpr std::size_t kHeader = sizeof(trie_bytes);
  if (charsmap.size() <= kHeader) refuse();
  std::memcpy(&trie_bytes, charsmap.data(), kHeader);
  if (trie_bytes > charsmap.size() - kHeader || trie_bytes % sizeof(std::uint32_t) != 0) refuse();
  units_.resize(trie_bytes / sizeof(std::uint32_t));
  std::memcpy(units_.data(), charsmap.data() + kHeader, trie_bytes);
  texts_ = charsmap.substr(kHeader + trie_bytes);
}

std::string SentencePieceNormalizer::normalized(std::string_view text) const {
  if (rules_.removes_extra_spaces) {
    while (!text.empty()) {
      const Step step = first_step(text);
      if (step.text != " ") break;
      text.remove_prefix(step.bytes);
    }
  }
  std::string normal;
  if (text.empty()) return normal;
  const std::string_view space = rules_.escapes_spaces ? kSpaceMark : " ";
  if (rules_.adds_dummy_prefix && !spaces_are_suffixes_) normal += space;
  bool follows_space = rules_.removes_extra_spaces;
  while (!text.empty()) {
    auto [piece, bytes] = first_step(text);
    while (follows_space && piece.starts_with(' ')) piece.remove_prefix(1);
    for (const char c : piece) {
      if (c == ' ') {
        normal += space;
      } else {
        normal += c;
      }
    }
    if (!piece.empty()) follows_space = rules_.removes_extra_spaces && piece.ends_with(' ');
    text.remove_prefix(bytes);
  }
  if (rules_.removes_extra_spaces) {
    while (normal.ends_with(space)) normal.resize(normal.size() - space.size());
  }
  if (rules_.adds_dummy_prefix && spaces_are_suffixes_) normal += space;
  return normal;
}

SentencePieceNormalizer::Step SentencePieceNormalizer::first_step(std::string_view text) const {
  if (untouched_ != nullptr) {
    if (const std::size_t bytes = untouched_->longest_prefix(text); bytes > 0) return {text.substr(0, bytes), bytes};
  }
  if (const Step step = longest_rule(text); step.bytes > 0) return step;
  const Character character = first_character(text);
  if (!character.is_valid) return {kReplacement, 1};
  return {text.substr(0, character.bytes), character.bytes};
}

// The walk of darts-clone for the longest key that the text begins with; 0 bytes for none.
SentencePieceNormalizer::Step SentencePieceNormalizer::longest_rule(std::string_view text) const {
  Step longest = {"", 0};
  if (units_.empty()) return longest;
  std::size_t node = offset_of(unit(0));
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    const std::uint32_t found = unit(node);
    if (label_of(found) != byte) break;
    node ^= offset_of(found);
    if (has_leaf(found)) longest = {replacement(value_of(unit(node))), i + 1};
  }
  return longest;
}

std::string_view SentencePieceNormalizer::replacement(std::uint32_t at) const {
  if (at >= texts_.size()) refuse();
  const std::string_view text = std::string_view(texts_).substr(at, kLongestReplacement + 1);
  const std::size_t end = text.find('\0');
  if (end == std::string_view::npos) refuse();
  return text.substr(0, end);
}

std::uint32_t SentencePieceNormalizer::unit(std::size_t index) const {
  if (index >= units_.size()) refuse();
  return units_[index];
}

void SentencePieceNormalizer::refuse() const {
  fail(Code::kBadBundle, where_ + ": its rules for normalising text are damaged");
}

}  // namespace hsm::runtime::text
