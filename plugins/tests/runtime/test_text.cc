// Tokenizers and text streams; tests/plugins/test_text.py compares them with Python's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "hsm_runtime.h"
#include "hsm_runtime/text.h"
#include "runtime/text/unicode.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Tokenizer bytes() { return *Tokenizer::open("bytes", ""); }

// A BPE of bytes in which an id may be half a character.
Tokenizer halves(const TemporaryFolder& folder) {
  const std::string path = (folder.path() / "tokenizer.json").string();
  std::ofstream(path) << R"({"model": {"type": "BPE", "vocab": {"a": 0, "Ã": 1, "©": 2, "Ġ": 3, "aa": 4, "b": 5},
    "merges": [["a", "a"]]}, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "added_tokens": [{"id": 6, "content": "<end>", "special": true, "normalized": false}]})";
  auto tokenizer = Tokenizer::open("huggingface", path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return *tokenizer;
}

// The same bundle with a tokenizer of bytes.
std::string with_bytes(const std::string& bundle) {
  const std::string path = bundle + "/manifest.json", none = "\"tokenizer\": null";
  std::stringstream read;
  read << std::ifstream(path).rdbuf();
  std::string manifest = read.str();
  manifest.replace(manifest.find(none), none.size(), "\"tokenizer\": {\"kind\": \"bytes\"}");
  std::ofstream(path) << manifest;
  return bundle;
}

std::vector<std::string> pieces_of(const Tokenizer& tokenizer, const std::string& text,
                                   const std::vector<std::string>& stops) {
  auto stream = TextStream::create(tokenizer, stops);
  std::vector<std::string> pieces;
  const std::vector<std::int64_t> tokens = *tokenizer.encode(text);
  for (const std::int64_t token : tokens) pieces.push_back(*stream->push(token));
  pieces.push_back(*stream->finish());
  return pieces;
}

TEST(Text, StreamsOfBytesNeverBreakACharacter) {
  EXPECT_THAT(pieces_of(bytes(), "a\xc3\xa9!", {}), ElementsAre("a", "", "\xc3\xa9", "!", ""));
  EXPECT_THAT(pieces_of(bytes(), "\xf0\x9f\x99", {}), ElementsAre("", "", "", "\xef\xbf\xbd"));
  EXPECT_THAT(pieces_of(bytes(), "\xf0\x9f!", {}), ElementsAre("", "", "\xef\xbf\xbd!", ""));
  EXPECT_EQ(*bytes().decode(std::vector<std::int64_t>{0xff, 'a', 0xc3}),
            "\xef\xbf\xbd"
            "a\xef\xbf\xbd");
}

TEST(Text, StopStringsAreNeverPassedOnNorAnyBeginning) {
  EXPECT_THAT(pieces_of(bytes(), "one END two", {"END"}),
              ElementsAre("o", "n", "e", " ", "", "", "", "", "", "", "", ""));
  EXPECT_THAT(pieces_of(bytes(), "xENx", {"END", "NO"}), ElementsAre("x", "", "", "ENx", ""));
  EXPECT_THAT(pieces_of(bytes(), "EN", {"END"}), ElementsAre("", "", "EN"));
  auto stream = TextStream::create(bytes(), {"b"});
  EXPECT_EQ(*stream->push('a'), "a");
  EXPECT_FALSE(stream->stopped());
  EXPECT_EQ(*stream->push('b'), "");
  EXPECT_TRUE(stream->stopped());
  EXPECT_EQ(*stream->push('c') + *stream->finish(), "");
  EXPECT_THAT(TextStream::create(bytes(), {""}).status().message(), HasSubstr("must not be empty"));
  EXPECT_THAT(TextStream::create(bytes(), {"\xff"}).status().message(), HasSubstr("not UTF-8"));
}

TEST(Text, ReadsATokenizerJson) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = halves(folder);
  EXPECT_EQ(tokenizer.vocabulary(), 7);
  EXPECT_THAT(*tokenizer.encode("aa\xc3\xa9 a<end>a"), ElementsAre(4, 1, 2, 3, 0, 6, 0));
  EXPECT_EQ(*tokenizer.decode(std::vector<std::int64_t>{4, 1, 2, 6, 99, 1}), "aa\xc3\xa9\xef\xbf\xbd");
  EXPECT_THAT(pieces_of(tokenizer, "a\xc3\xa9", {}), ElementsAre("a", "", "\xc3\xa9", ""));
  EXPECT_THAT(tokenizer.encode("\xff").status().message(), HasSubstr("not UTF-8"));
  EXPECT_THAT(*tokenizer.encode(""), IsEmpty());
}

TEST(Text, SaysWhatIsWrong) {
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "tokenizer.json").string();
  EXPECT_EQ(Tokenizer::open("huggingface", path).status().code(), Code::kBadBundle);
  for (const char* wrong : {"{", "{}", R"({"model": {"type": "BPE", "vocab": [], "merges": []}})",
                            R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
                            R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}})",
                            R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}})",
                            R"({"model": {"type": "Unigram", "vocab": [["a", 0]], "unk_id": 4}})"}) {
    std::ofstream(path) << wrong;
    EXPECT_EQ(Tokenizer::open("huggingface", path).status().code(), Code::kBadBundle) << wrong;
  }
  EXPECT_THAT(Tokenizer::open("words", "").status().message(),
              HasSubstr("there are bytes, characters, rwkv, sentencepiece, huggingface"));
  EXPECT_EQ(Tokenizer::open("", "").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(bytes().decode(std::vector<std::int64_t>{256}).status().code(), Code::kInvalidArgument);
}

TEST(Text, EveryCharacterIsReadBack) {
  for (char32_t code = 0; code <= 0x10ffff; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string text;
    runtime::text::append(text, code);
    const runtime::text::Character character = runtime::text::first_character(text);
    ASSERT_TRUE(character.is_valid && character.code == code && character.bytes == text.size())
        << static_cast<unsigned>(code);
  }
}

TEST(TextInC, ReadsTheTokenizerOfABundle) {
  const TemporaryFolder folder;
  hsmrt_bundle* bundle = nullptr;
  hsmrt_tokenizer* tokenizer = nullptr;
  hsmrt_error error = {};
  ASSERT_EQ(hsmrt_bundle_open(write_counting_bundle(folder).c_str(), 1, &bundle, &error), HSMRT_OK) << error.message;
  EXPECT_EQ(hsmrt_tokenizer_open(bundle, &tokenizer, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("has no tokenizer"));
  hsmrt_bundle_close(bundle);

  ASSERT_EQ(hsmrt_bundle_open(with_bytes(write_counting_bundle(folder)).c_str(), 1, &bundle, &error), HSMRT_OK);
  ASSERT_EQ(hsmrt_tokenizer_open(bundle, &tokenizer, &error), HSMRT_OK) << error.message;
  hsmrt_bundle_close(bundle);
  EXPECT_EQ(hsmrt_tokenizer_vocabulary(tokenizer), 256);
  std::array<std::int64_t, 4> ids = {};
  std::array<char, 4> text = {};
  std::size_t count = 0;
  EXPECT_EQ(hsmrt_tokenizer_encode(tokenizer, "a\xc3\xa9", 3, nullptr, 0, &count, &error), HSMRT_OK);
  EXPECT_EQ(count, 3u);
  EXPECT_EQ(hsmrt_tokenizer_encode(tokenizer, "a\xc3\xa9", 3, ids.data(), 4, &count, &error), HSMRT_OK);
  EXPECT_THAT(ids, ElementsAre('a', 0xc3, 0xa9, 0));
  EXPECT_EQ(hsmrt_tokenizer_encode(tokenizer, "abc", 3, ids.data(), 2, &count, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("room for 2"));
  EXPECT_EQ(hsmrt_tokenizer_decode(tokenizer, ids.data(), 3, text.data(), 4, &count, &error), HSMRT_OK);
  EXPECT_EQ(std::string(text.data(), count), "a\xc3\xa9");

  const std::array<const char*, 1> stops = {"b"};
  hsmrt_text_stream* stream = nullptr;
  const char* piece = nullptr;
  ASSERT_EQ(hsmrt_text_stream_create(tokenizer, stops.data(), 1, &stream, &error), HSMRT_OK) << error.message;
  hsmrt_tokenizer_close(tokenizer);
  EXPECT_EQ(hsmrt_text_stream_push(stream, 'a', &piece, &count, &error), HSMRT_OK);
  EXPECT_EQ(std::string(piece), "a");
  EXPECT_EQ(hsmrt_text_stream_push(stream, 'b', &piece, nullptr, &error), HSMRT_OK);
  EXPECT_EQ(hsmrt_text_stream_stopped(stream), 1);
  EXPECT_EQ(hsmrt_text_stream_finish(stream, &piece, &count, &error), HSMRT_OK);
  EXPECT_EQ(count, 0u);
  hsmrt_text_stream_close(stream);
  EXPECT_EQ(hsmrt_tokenizer_open(nullptr, &tokenizer, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_text_stream_create(nullptr, nullptr, 0, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_tokenizer_vocabulary(nullptr), 0);
  EXPECT_EQ(hsmrt_text_stream_stopped(nullptr), 0);
  hsmrt_tokenizer_close(nullptr);
  hsmrt_text_stream_close(nullptr);
}

}  // namespace
}  // namespace hsm::testing
