#include "runtime/text/rwkv_vocabulary.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>

#include "runtime/error.h"
#include "runtime/text/unicode.h"

namespace hsm::runtime::text {
namespace {

// The published file has 65,529 tokens and 1.2 MB.
constexpr std::size_t kMostBytes = std::size_t{16} << 20;
constexpr std::int64_t kMostId = (std::int64_t{1} << 20) - 1;

std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// A literal of Python's str or bytes, as repr() writes it: one line, with \n \r \t \\ \' \" \x \u \U.
class Literal {
 public:
  explicit Literal(std::string_view rest) : rest_(rest) {}

  // Its bytes, those of a str in UTF-8; nothing for what is no literal.
  std::optional<std::string> read() {
    if (rest_.starts_with('b')) is_bytes_ = true, rest_.remove_prefix(1);
    if (rest_.size() < 2 || (rest_.front() != '\'' && rest_.front() != '"') || rest_.back() != rest_.front()) {
      return std::nullopt;
    }
    const char quote = rest_.front();
    rest_ = rest_.substr(1, rest_.size() - 2);
    while (!rest_.empty()) {
      const char first = rest_.front();
      if (first == quote || (is_bytes_ && static_cast<unsigned char>(first) >= 0x80)) return std::nullopt;
      rest_.remove_prefix(1);
      if (first != '\\') {
        bytes_ += first;
      } else if (!read_escape()) {
        return std::nullopt;
      }
    }
    return is_utf8(bytes_) || is_bytes_ ? std::optional(bytes_) : std::nullopt;
  }

 private:
  bool read_escape() {
    if (rest_.empty()) return false;
    const char kind = rest_.front();
    rest_.remove_prefix(1);
    constexpr std::string_view kNames = "nrt\\'\"", kBytes = "\n\r\t\\'\"";
    if (const std::size_t place = kNames.find(kind); place != std::string_view::npos) {
      bytes_ += kBytes[place];
      return true;
    }
    if (kind == 'x') return read_code(2);
    return !is_bytes_ && ((kind == 'u' && read_code(4)) || (kind == 'U' && read_code(8)));
  }

  bool read_code(std::size_t digits) {
    std::uint32_t code = 0;
    if (rest_.size() < digits) return false;
    const char* end = rest_.data() + digits;
    if (std::from_chars(rest_.data(), end, code, 16).ptr != end) return false;
    rest_.remove_prefix(digits);
    if (is_bytes_) {
      bytes_ += static_cast<char>(code);
      return true;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    append(bytes_, static_cast<char32_t>(code));
    return true;
  }

  std::string_view rest_;
  std::string bytes_;
  bool is_bytes_ = false;
};

}  // namespace

RwkvVocabulary::RwkvVocabulary(std::string_view file, const std::string& where) {
  if (file.size() > kMostBytes) fail(Code::kBadBundle, where + " is larger than 16 MB");
  for (std::size_t number = 1; !file.empty(); ++number) {
    std::string_view line = file.substr(0, file.find('\n'));
    file.remove_prefix(std::min(file.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::string place = where + ", line " + std::to_string(number);
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (first == last) fail(Code::kBadBundle, place + " is no line of RWKV's vocabulary");
    const auto id = number_of(line.substr(0, first)), size = number_of(line.substr(last + 1));
    const auto token = Literal(line.substr(first + 1, last - first - 1)).read();
    if (!id || *id < 1 || *id > kMostId || !token || token->empty() ||
        size != static_cast<std::int64_t>(token->size())) {
      fail(Code::kBadBundle, place + " is no line of RWKV's vocabulary");
    }
    if (tokens_.size() <= static_cast<std::size_t>(*id)) tokens_.resize(static_cast<std::size_t>(*id) + 1);
    std::string& own = tokens_[static_cast<std::size_t>(*id)];
    if (!own.empty()) fail(Code::kBadBundle, place + ": the id is there already");
    own = *token;
    if (!ids_.emplace(*token, *id).second) fail(Code::kBadBundle, place + ": the token is there already");
    sizes_[static_cast<unsigned char>(token->front())].push_back(token->size());
  }
  if (tokens_.empty()) fail(Code::kBadBundle, where + " holds no tokens");
  for (auto& sizes : sizes_) {
    std::sort(sizes.begin(), sizes.end(), std::greater<>());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  }
}

std::vector<std::int64_t> RwkvVocabulary::encode(std::string_view text) const {
  std::vector<std::int64_t> ids;
  while (!text.empty()) {
    const auto& sizes = sizes_[static_cast<unsigned char>(text.front())];
    const auto known = std::find_if(sizes.begin(), sizes.end(), [&](std::size_t size) {
      return size <= text.size() && ids_.find(text.substr(0, size)) != ids_.end();
    });
    if (known == sizes.end()) {
      constexpr std::string_view kDigits = "0123456789ABCDEF";
      const auto byte = static_cast<unsigned char>(text.front());
      fail(Code::kInvalidArgument,
           std::string("the tokenizer has no token for the byte 0x") + kDigits[byte / 16] + kDigits[byte % 16]);
    }
    ids.push_back(ids_.find(text.substr(0, *known))->second);
    text.remove_prefix(*known);
  }
  return ids;
}

std::string RwkvVocabulary::decode(std::span<const std::int64_t> ids) const {
  std::string bytes;
  for (const std::int64_t id : ids) {
    if (id < vocabulary()) bytes += tokens_[static_cast<std::size_t>(id)];
  }
  return repaired(bytes);
}

}  // namespace hsm::runtime::text
