// The C interface of tokenizers and text streams.
#include <algorithm>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "hsm_runtime/text.h"
#include "runtime/c_api.h"
#include "runtime/c_structs.h"

struct hsmrt_tokenizer {
  hsm_runtime::Tokenizer tokenizer;
};
struct hsmrt_text_stream {
  hsm_runtime::TextStream stream;
  std::string text;  // what the last call gave
};

namespace {

using hsm::runtime::fail;
using hsm::runtime::c_api::call;
using hsm::runtime::c_api::given;
using hsm::runtime::c_api::list_of;
using hsm_runtime::Code;
using hsm_runtime::Result;
using hsm_runtime::Status;
using hsm_runtime::TextStream;
using hsm_runtime::Tokenizer;

std::string_view bytes_of(const char* text, std::size_t size) {
  if (size > 0) std::ignore = given(text, "the text");
  return {text, size};
}

// Copies what was found, if there is room for it; `count` says how much there is.
template <typename T, typename From>
Status hand_over(const From& found, T* into, std::size_t room, std::size_t* count) {
  given(count, "the place for the count") = found.size();
  if (room == 0) return {};
  if (found.size() > room) {
    fail(Code::kInvalidArgument,
         "the result has " + std::to_string(found.size()) + " elements, there is room for " + std::to_string(room));
  }
  std::copy_n(found.begin(), found.size(), &given(into, "the place for the result"));
  return {};
}

Status keep(hsmrt_text_stream& stream, Result<std::string> text, const char** into, std::size_t* bytes) {
  std::ignore = given(into, "the place for the text");
  if (!text.ok()) return text.status();
  stream.text = *std::move(text);
  *into = stream.text.c_str();
  if (bytes != nullptr) *bytes = stream.text.size();
  return {};
}

}  // namespace

int32_t hsmrt_tokenizer_open(const hsmrt_bundle* bundle, hsmrt_tokenizer** tokenizer, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(tokenizer, "the place for the tokenizer");
    auto opened = Tokenizer::open(given(bundle, "the bundle").bundle);
    if (opened.ok()) *tokenizer = new hsmrt_tokenizer{*std::move(opened)};
    return opened.status();
  });
}
void hsmrt_tokenizer_close(hsmrt_tokenizer* tokenizer) { delete tokenizer; }
int64_t hsmrt_tokenizer_vocabulary(const hsmrt_tokenizer* tokenizer) {
  return tokenizer == nullptr ? 0 : tokenizer->tokenizer.vocabulary();
}

int32_t hsmrt_tokenizer_encode(const hsmrt_tokenizer* tokenizer, const char* text, size_t bytes, int64_t* tokens,
                               size_t room, size_t* count, hsmrt_error* error) {
  return call(error, [&] {
    const auto ids = given(tokenizer, "the tokenizer").tokenizer.encode(bytes_of(text, bytes));
    return ids.ok() ? hand_over(*ids, tokens, room, count) : ids.status();
  });
}

int32_t hsmrt_tokenizer_decode(const hsmrt_tokenizer* tokenizer, const int64_t* tokens, size_t token_count, char* text,
                               size_t room, size_t* bytes, hsmrt_error* error) {
  return call(error, [&] {
    const auto ids = list_of(tokens, token_count, "the list of tokens");
    const auto found = given(tokenizer, "the tokenizer").tokenizer.decode(ids);
    return found.ok() ? hand_over(*found, text, room, bytes) : found.status();
  });
}

int32_t hsmrt_text_stream_create(const hsmrt_tokenizer* tokenizer, const char* const* stops, size_t stop_count,
                                 hsmrt_text_stream** stream, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(stream, "the place for the stream");
    if (stop_count > 0) std::ignore = given(stops, "the list of stop strings");
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < stop_count; ++i) texts.emplace_back(&given(stops[i], "a stop string"));
    auto made = TextStream::create(given(tokenizer, "the tokenizer").tokenizer, texts);
    if (made.ok()) *stream = new hsmrt_text_stream{*std::move(made), ""};
    return made.status();
  });
}
void hsmrt_text_stream_close(hsmrt_text_stream* stream) { delete stream; }

int32_t hsmrt_text_stream_push(hsmrt_text_stream* stream, int64_t token, const char** text, size_t* bytes,
                               hsmrt_error* error) {
  return call(error, [&] {
    hsmrt_text_stream& opened = given(stream, "the stream");
    return keep(opened, opened.stream.push(token), text, bytes);
  });
}
int32_t hsmrt_text_stream_finish(hsmrt_text_stream* stream, const char** text, size_t* bytes, hsmrt_error* error) {
  return call(error, [&] {
    hsmrt_text_stream& opened = given(stream, "the stream");
    return keep(opened, opened.stream.finish(), text, bytes);
  });
}
int32_t hsmrt_text_stream_stopped(const hsmrt_text_stream* stream) {
  return stream != nullptr && stream->stream.stopped() ? 1 : 0;
}
