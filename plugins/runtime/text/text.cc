#include "hsm_runtime/text.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/manifest.h"
#include "runtime/text/characters.h"
#include "runtime/text/rwkv_vocabulary.h"
#include "runtime/text/sentencepiece.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/unicode.h"

namespace hsm_runtime {

namespace text = hsm::runtime::text;
using hsm::runtime::fail;

// Bytes where there is no file.
struct Tokenizer::Impl {
  static constexpr std::int64_t kBytes = 256;
  std::unique_ptr<text::FileTokenizer> file;

  std::int64_t vocabulary() const { return file ? file->vocabulary() : kBytes; }

  std::vector<std::int64_t> encode(std::string_view text) const {
    if (file) {
      if (!text::is_utf8(text)) fail(Code::kInvalidArgument, "the text is not UTF-8");
      return file->encode(text);
    }
    std::vector<std::int64_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }

  void check(std::span<const std::int64_t> tokens) const {
    // A model may have a few ids more than its tokenizer, which have no text.
    const std::int64_t most = file ? std::int64_t{1} << 31 : kBytes;
    for (const std::int64_t token : tokens) {
      if (token < 0 || token >= most) {
        fail(Code::kInvalidArgument, "token id " + std::to_string(token) + " is not one of the tokenizer's");
      }
    }
  }

  std::string decode(std::span<const std::int64_t> tokens) const {
    check(tokens);
    if (file) return file->decode(tokens);
    std::string bytes;
    for (const std::int64_t token : tokens) bytes += static_cast<char>(token);
    return text::repaired(bytes);
  }
};

namespace {

std::unique_ptr<text::FileTokenizer> read_tokenizer(const std::string& kind, std::span<const std::byte> bytes,
                                                    const std::string& where) {
  if (kind == "sentencepiece") return std::make_unique<text::SentencePiece>(bytes, where);
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (kind == "rwkv") return std::make_unique<text::RwkvVocabulary>(content, where);
  const auto document = hsm::runtime::json::parse(content, where);
  if (kind == "characters") return std::make_unique<text::Characters>(document, where);
  return std::make_unique<text::TokenizerJson>(document);
}

// folder: a bundle's, whose files are never links; "" for a file that the caller names.
Tokenizer opened(const std::string& kind, const std::string& folder, const std::string& path) {
  auto impl = std::make_shared<Tokenizer::Impl>();
  if (hsm::runtime::tokenizer_file(kind) != nullptr) {
    const auto file = folder.empty() ? hsm::runtime::MappedFile(path) : hsm::runtime::MappedFile(folder, path);
    impl->file = read_tokenizer(kind, file.bytes(), path);
  } else if (kind.empty()) {
    fail(Code::kInvalidArgument, "the bundle has no tokenizer: give token ids");
  } else if (kind != "bytes") {
    fail(Code::kInvalidArgument, "there is no tokenizer of the kind '" + kind +
                                     "'; there are bytes, characters, rwkv, sentencepiece, huggingface");
  }
  return Tokenizer(std::move(impl));
}

}  // namespace

Result<Tokenizer> Tokenizer::open(const Bundle& bundle) {
  return hsm::runtime::guarded<Tokenizer>([&] {
    const char* file = hsm::runtime::tokenizer_file(bundle.tokenizer());
    return opened(bundle.tokenizer(), bundle.path(), file == nullptr ? "" : file);
  });
}
Result<Tokenizer> Tokenizer::open(const std::string& kind, const std::string& path) {
  return hsm::runtime::guarded<Tokenizer>([&] { return opened(kind, "", path); });
}

std::int64_t Tokenizer::vocabulary() const { return impl_->vocabulary(); }
Result<std::vector<std::int64_t>> Tokenizer::encode(std::string_view text) const {
  return hsm::runtime::guarded<std::vector<std::int64_t>>([&] { return impl_->encode(text); });
}
Result<std::string> Tokenizer::decode(std::span<const std::int64_t> tokens) const {
  return hsm::runtime::guarded<std::string>([&] { return impl_->decode(tokens); });
}

struct TextStream::Impl {
  Impl(const Tokenizer& chosen, const std::vector<std::string>& given) : tokenizer(chosen), stops(given) {
    for (const std::string& stop : stops) {
      if (stop.empty()) fail(Code::kInvalidArgument, "a stop string must not be empty");
      if (!text::is_utf8(stop)) fail(Code::kInvalidArgument, "a stop string is not UTF-8");
    }
  }

  // The text that became certain with a token.
  std::string text_with(std::int64_t token) {
    tokenizer.impl().check({&token, 1});
    return tokenizer.impl().file ? text_with_id(token) : text_with_byte(static_cast<char>(token));
  }

  std::string text_with_byte(char byte) {
    bytes += byte;
    std::string text;
    while (!bytes.empty()) {
      const text::Character character = text::first_character(bytes);
      if (character.is_cut) break;
      text += character.is_valid ? std::string_view(bytes).substr(0, character.bytes) : text::kReplacement;
      bytes.erase(0, character.bytes);
    }
    return text;
  }

  // The text of an id depends on the one before it, so a few are decoded together.
  std::string text_with_id(std::int64_t token) {
    ids.push_back(token);
    std::string text = new_text();
    if (text.empty() || text.ends_with(text::kReplacement)) return "";
    // Where ids alone have no text (a mark for a space that begins a text), those before them say that they do not
    // begin.
    const std::size_t closed = tokenizer.impl().file->decode(std::span(ids).subspan(context)).empty() ? 0 : context;
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(closed));
    context = ids.size();
    return text;
  }

  std::string new_text() const {
    const text::FileTokenizer& file = *tokenizer.impl().file;
    const std::string before = file.decode(std::span(ids).first(context)), all = file.decode(ids);
    return std::string(text::without_characters(all, text::count_characters(before)));
  }

  std::string rest() {
    std::string text = tokenizer.impl().file ? (ids.size() > context ? new_text() : "") : text::repaired(bytes);
    ids.resize(context);
    bytes.clear();
    return text;
  }

  // What certainly stands before any stop string.
  std::string before_stops(const std::string& text) {
    if (stopped) return "";
    held += text;
    std::size_t end = std::string::npos;
    for (const std::string& stop : stops) end = std::min(end, held.find(stop));
    stopped = end != std::string::npos;
    if (!stopped) end = held.size() - possible_start();
    std::string passed = held.substr(0, end);
    held.erase(0, stopped ? held.size() : end);
    return passed;
  }

  // The longest end of the held text with which a stop string begins.
  std::size_t possible_start() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      for (std::size_t size = std::min(stop.size() - 1, held.size()); size > longest; --size) {
        if (std::string_view(held).ends_with(std::string_view(stop).substr(0, size))) longest = size;
      }
    }
    return longest;
  }

  std::string finish() {
    if (stopped) return "";
    std::string text = before_stops(rest());
    if (!stopped) text += std::exchange(held, "");
    return text;
  }

  Tokenizer tokenizer;
  std::vector<std::string> stops;
  std::string bytes;              // of a character that is not complete
  std::vector<std::int64_t> ids;  // `context` of them have given their text
  std::size_t context = 0;
  std::string held;  // a stop string may begin here
  bool stopped = false;
};

TextStream::TextStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TextStream::TextStream(TextStream&&) noexcept = default;
TextStream& TextStream::operator=(TextStream&&) noexcept = default;
TextStream::~TextStream() = default;

Result<TextStream> TextStream::create(const Tokenizer& tokenizer, const std::vector<std::string>& stops) {
  return hsm::runtime::guarded<TextStream>([&] { return TextStream(std::make_unique<Impl>(tokenizer, stops)); });
}
Result<std::string> TextStream::push(std::int64_t token) {
  return hsm::runtime::guarded<std::string>([&] { return impl_->before_stops(impl_->text_with(token)); });
}
bool TextStream::stopped() const { return impl_->stopped; }
Result<std::string> TextStream::finish() {
  return hsm::runtime::guarded<std::string>([&] { return impl_->finish(); });
}

}  // namespace hsm_runtime
