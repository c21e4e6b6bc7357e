// Text to token ids and back, with the tokenizer that travels in the bundle.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "hsm_runtime/export.h"
#include "hsm_runtime/status.h"

namespace hsm_runtime {

/// A tokenizer: immutable, cheap to copy, safe to share between threads. Its ids and texts are those of
/// `hsm_export.decoding.tokenizer` in Python.
class HSM_RUNTIME_API Tokenizer {
 public:
  struct Impl;

  /// That of a bundle. kInvalidArgument when the bundle has none; kNoBackend for a tokenizer.json with a part that this
  /// library does not know, which the text names; kBadBundle for a file that is no tokenizer.
  static Result<Tokenizer> open(const Bundle& bundle);
  /// One by itself. kind: "bytes" (ids are the bytes of UTF-8 text; `path` is not looked at), "characters" (a JSON file
  /// {"characters": TEXT} of them by id), "rwkv" (a .txt of lines ID LITERAL LENGTH), "sentencepiece" (a .model of
  /// SentencePiece) or "huggingface" (a tokenizer.json).
  static Result<Tokenizer> open(const std::string& kind, const std::string& path);

  /// Ids are 0..vocabulary()-1.
  std::int64_t vocabulary() const;
  /// The ids of a text in UTF-8, without the special tokens that a template may put around it. Special tokens within
  /// the text become theirs, but for control pieces of SentencePiece, which are text there. kInvalidArgument for text
  /// that is not UTF-8 (bytes take any), or that the tokenizer has no ids for.
  Result<std::vector<std::int64_t>> encode(std::string_view text) const;
  /// The text of ids, always valid UTF-8: U+FFFD stands where bytes are none. Special tokens have no text.
  /// kInvalidArgument for an id that is not there.
  Result<std::string> decode(std::span<const std::int64_t> tokens) const;

  /// @{
  /// For the library itself.
  const Impl& impl() const { return *impl_; }
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  /// @}

 private:
  std::shared_ptr<const Impl> impl_;
};

/// Turns the tokens of one sequence into text as they come: never half a character, and never any part of a stop
/// string. Movable; one thread at a time.
class HSM_RUNTIME_API TextStream {
 public:
  struct Impl;

  /// `stops`: strings that end the text before them; none may be empty.
  static Result<TextStream> create(const Tokenizer& tokenizer, const std::vector<std::string>& stops = {});

  /// The text that became certain with this token; empty while a character is incomplete or a stop string may follow.
  Result<std::string> push(std::int64_t token);
  /// Whether a stop string came. Nothing more comes then.
  bool stopped() const;
  /// What is left at the end: U+FFFD for what never became a character.
  Result<std::string> finish();

  /// Moves it; the other is of no use then.
  TextStream(TextStream&&) noexcept;
  /// Moves it; the other is of no use then.
  TextStream& operator=(TextStream&&) noexcept;
  ~TextStream();
  /// For the library itself.
  explicit TextStream(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm_runtime
