// The regular expressions by which published tokenizers split text, as code: there is no library of Unicode ones here.
#include <array>
#include <utility>

#include "runtime/text/splitting.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

bool is_line_end(char32_t code) { return code == '\r' || code == '\n'; }
bool is_other(char32_t code) { return !is_whitespace(code) && !is_letter(code) && !is_number(code); }

// The bytes of the characters at the beginning that fit, `most` of them at most.
template <typename Fits>
std::size_t run_of(std::string_view text, Fits&& fits, std::size_t most = std::string_view::npos) {
  std::size_t size = 0;
  for (std::size_t count = 0; count < most && size < text.size(); ++count) {
    const Character character = first_character(text.substr(size));
    if (!fits(character.code)) break;
    size += character.bytes;
  }
  return size;
}

// ` ?X+`, where a space is no X.
template <typename Fits>
std::size_t spaced_run(std::string_view text, Fits&& fits) {
  const std::size_t space = text.starts_with(' ') ? 1 : 0;
  const std::size_t run = run_of(text.substr(space), fits);
  return run == 0 ? 0 : space + run;
}

// `'s|'t|'re|'ve|'m|'ll|'d`; without regard to case U+017F is an s too.
std::size_t contraction(std::string_view text, bool any_case) {
  if (!text.starts_with('\'')) return 0;
  const std::string_view rest = text.substr(1);
  if (any_case && rest.starts_with("\xc5\xbf")) return 3;
  const auto letter = [&](std::size_t i) -> char {
    if (i >= rest.size()) return 0;
    return any_case && rest[i] >= 'A' && rest[i] <= 'Z' ? static_cast<char>(rest[i] + 32) : rest[i];
  };
  for (const char one : {'s', 't', 'm', 'd'}) {
    if (letter(0) == one) return 2;
  }
  for (const std::string_view two : {"re", "ve", "ll"}) {
    if (letter(0) == two[0] && letter(1) == two[1]) return 3;
  }
  return 0;
}

// `\s+(?!\S)|\s+`: white space, but the last of it where a word follows, unless that is all.
std::size_t blanks(std::string_view text) {
  const std::size_t run = run_of(text, is_whitespace);
  if (run == text.size()) return run;
  std::size_t last = 0;  // where the run's last character begins
  for (std::size_t at = 0; at < run; at += first_size(text.substr(at))) last = at;
  return last > 0 ? last : run;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t gpt2(std::string_view text) {
  if (const std::size_t size = contraction(text, false); size > 0) return size;
  if (const std::size_t size = spaced_run(text, is_letter); size > 0) return size;
  if (const std::size_t size = spaced_run(text, is_number); size > 0) return size;
  if (const std::size_t size = spaced_run(text, is_other); size > 0) return size;
  return blanks(text);
}

// `\s*[\r\n]+`: white space up to the last end of a line in it.
std::size_t blanks_with_line_end(std::string_view text) {
  const std::string_view run = text.substr(0, run_of(text, is_whitespace));
  const std::size_t last = run.find_last_of("\r\n");
  return last == std::string_view::npos ? 0 : last + 1;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,M}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
template <std::size_t kMostDigits>
std::size_t cl100k(std::string_view text) {
  if (const std::size_t size = contraction(text, true); size > 0) return size;
  const Character first = first_character(text);
  const bool may_lead = !is_line_end(first.code) && !is_letter(first.code) && !is_number(first.code);
  const std::size_t lead = may_lead ? first.bytes : 0;
  if (const std::size_t run = run_of(text.substr(lead), is_letter); run > 0) return lead + run;
  if (const std::size_t size = run_of(text, is_number, kMostDigits); size > 0) return size;
  if (const std::size_t size = spaced_run(text, is_other); size > 0)
    return size + run_of(text.substr(size), is_line_end);
  if (const std::size_t size = blanks_with_line_end(text); size > 0) return size;
  return blanks(text);
}

constexpr std::array<std::pair<std::string_view, Rule>, 4> kRules = {
    {{R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", gpt2},
     {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", gpt2},
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      cl100k<3>},
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      cl100k<1>}}};

}  // namespace

const Rule kByteLevelRule = gpt2;

Rule rule_of(std::string_view regular_expression) {
  for (const auto& [text, rule] : kRules) {
    if (text == regular_expression) return rule;
  }
  return nullptr;
}

}  // namespace hsm::runtime::text
