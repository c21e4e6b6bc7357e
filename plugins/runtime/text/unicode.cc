#include "runtime/text/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "runtime/text/unicode_ranges.gen.h"

namespace hsm::runtime::text {
namespace {

bool is_in(std::span<const Range> ranges, char32_t code) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), code,
                                      [](char32_t value, const Range& range) { return value < range.first; });
  return after != ranges.begin() && code <= std::prev(after)->last;
}

unsigned char byte_of(std::string_view text, std::size_t index) { return static_cast<unsigned char>(text[index]); }

// What may follow a first byte: how many bytes there are, and the range of the second (Unicode, table 3-7).
struct Lead {
  std::size_t bytes;
  unsigned char least, most;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

Character first_character(std::string_view text) {
  const unsigned char first = byte_of(text, 0);
  const Lead lead = lead_of(first);
  if (lead.bytes == 0) return {0xfffd, 1, false, false};
  if (lead.bytes == 1) return {first, 1, true, false};
  char32_t code = first & (0xffu >> (lead.bytes + 1));
  for (std::size_t i = 1; i < lead.bytes; ++i) {
    if (i == text.size()) return {0xfffd, i, false, true};
    const unsigned char byte = byte_of(text, i);
    const bool fits = i == 1 ? byte >= lead.least && byte <= lead.most : byte >= 0x80 && byte <= 0xbf;
    if (!fits) return {0xfffd, i, false, false};
    code = (code << 6) | (byte & 0x3fu);
  }
  return {code, lead.bytes, true, false};
}

std::size_t first_size(std::string_view text) { return lead_of(byte_of(text, 0)).bytes; }

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Character character = first_character(text);
    if (!character.is_valid) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

std::string repaired(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const Character character = first_character(bytes);
    text += character.is_valid ? bytes.substr(0, character.bytes) : kReplacement;
    bytes.remove_prefix(character.bytes);
  }
  return text;
}

void append(std::string& text, char32_t code) {
  const auto byte = [&](char32_t bits) { text += static_cast<char>(bits); };
  if (code < 0x80) return byte(code);
  if (code < 0x800) {
    byte(0xc0 | (code >> 6));
  } else {
    if (code < 0x10000) {
      byte(0xe0 | (code >> 12));
    } else {
      byte(0xf0 | (code >> 18));
      byte(0x80 | ((code >> 12) & 0x3f));
    }
    byte(0x80 | ((code >> 6) & 0x3f));
  }
  byte(0x80 | (code & 0x3f));
}

std::string_view without_characters(std::string_view text, std::size_t count) {
  for (; count > 0 && !text.empty(); --count) text.remove_prefix(first_size(text));
  return text;
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool is_letter(char32_t code) { return is_in(kLetters, code); }
bool is_number(char32_t code) { return is_in(kNumbers, code); }
bool is_word(char32_t code) { return is_in(kWords, code); }

bool is_whitespace(char32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
         code == 0x3000;
}

bool is_normal(std::string_view text, bool compatibility) {
  while (!text.empty()) {
    const Character character = first_character(text);
    if (is_in(kMayCompose, character.code) || (compatibility && is_in(kCompatible, character.code))) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

}  // namespace hsm::runtime::text
