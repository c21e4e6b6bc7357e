// UTF-8, and what tokenizers ask about characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hsm::runtime::text {

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// A character of UTF-8 text and its bytes there.
struct Character {
  char32_t code;
  std::size_t bytes;  // of a broken one: as many as one U+FFFD stands for
  bool is_valid;
  bool is_cut;  // broken only because the text ends
};

// The character at the beginning of a text that is not empty.
Character first_character(std::string_view text);
// The bytes of the first character of valid text.
std::size_t first_size(std::string_view text);
bool is_utf8(std::string_view text);
// The text with U+FFFD for each longest piece that could have begun a character, as Unicode advises.
std::string repaired(std::string_view bytes);
void append(std::string& text, char32_t code);
// The text without its first `count` characters.
std::string_view without_characters(std::string_view text, std::size_t count);
std::size_t count_characters(std::string_view text);

bool is_letter(char32_t code);      // \p{L}
bool is_number(char32_t code);      // \p{N}
bool is_whitespace(char32_t code);  // White_Space
bool is_word(char32_t code);        // \w
// Whether the text is its own normal form C or KC. False where that is not certain: marks that may combine.
bool is_normal(std::string_view text, bool compatibility);

}  // namespace hsm::runtime::text
