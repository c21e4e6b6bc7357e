// Tensors inside of a graph as outputs: hidden states of sessions and generators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "hsm_runtime.h"
#include "hsm_runtime/generator.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Tokens = std::vector<std::int64_t>;

// On the model that counts tokens, whose tensor `hot` (batch, length, 4) is 1 at the token.
class ExtraOutputsTest : public OnnxRuntimeTest {
 protected:
  Result<Session> session(const std::vector<std::string>& names) {
    options_.extra_outputs = names;
    return Session::open(*Bundle::open(write_counting_bundle(folder_)), Part::kDecode, options_);
  }
};

std::vector<float> numbers(const Result<std::span<const float>>& found) {
  EXPECT_TRUE(found.ok()) << found.status().message();
  return found.ok() ? std::vector<float>(found->begin(), found->end()) : std::vector<float>();
}

TEST_F(ExtraOutputsTest, ComeAfterTheSessionsOwn) {
  const Result<Session> opened = session({"hot", "logits", "hot", "flags"});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  ASSERT_EQ(opened->outputs().size(), 4u);
  EXPECT_EQ(opened->outputs()[2].name, "hot");
  EXPECT_EQ(opened->outputs()[2].shape.size(), 3u);
  EXPECT_EQ(opened->outputs()[3].name, "flags");
  std::array<std::int64_t, 2> tokens = {3, 1}, shape = {1, 2};
  std::array<std::int64_t, 1> position = {0}, lengths = {2}, batch = {1};
  std::array<float, 4> past = {};
  std::array<std::int64_t, 3> past_shape = {1, 1, 4};
  const std::array inputs = {NamedTensor{"tokens", {tokens.data(), DType::kInt64, shape}},
                             NamedTensor{"position", {position.data(), DType::kInt64, batch}},
                             NamedTensor{"lengths", {lengths.data(), DType::kInt64, batch}},
                             NamedTensor{"past.0.sum", {past.data(), DType::kFloat32, past_shape}}};
  const auto found = opened->run(inputs);
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_THAT((*found)[2].values<float>(), ElementsAre(0, 0, 0, 1, 0, 1, 0, 0));
  // And into the caller's memory.
  std::array<float, 8> own = {};
  std::array<std::int64_t, 3> own_shape = {1, 2, 4};
  const std::array outputs = {NamedTensor{"hot", {own.data(), DType::kFloat32, own_shape}}};
  ASSERT_TRUE(opened->run(inputs, outputs).ok());
  EXPECT_THAT(own, ElementsAre(0, 0, 0, 1, 0, 1, 0, 0));
}

TEST_F(ExtraOutputsTest, OfGeneratorsAreThoseOfTheLastToken) {
  const Result<Session> opened = session({"hot"});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  Result<Generator> made = Generator::create(*opened, {.batch = 3});
  ASSERT_TRUE(made.ok()) << made.status().message();
  Generator generator = *std::move(made);
  EXPECT_THAT(generator.output(0, "hot").status().message(), HasSubstr("has read nothing"));
  ASSERT_TRUE(generator.prefill(Tokens{0, 1, 0, 2, 2, 2, 0, 0, 0}, Tokens{2, 3, 0}).ok());
  EXPECT_THAT(numbers(generator.output(0, "hot")), ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(numbers(generator.output(1, "hot")), ElementsAre(0, 0, 1, 0));
  EXPECT_FALSE(generator.output(2, "hot").ok());
  ASSERT_TRUE(generator.step(Tokens{3, -1, 0}).ok());
  EXPECT_THAT(numbers(generator.output(0, "hot")), ElementsAre(0, 0, 0, 1));
  EXPECT_THAT(numbers(generator.output(1, "hot")), ElementsAre(0, 0, 1, 0));  // it stood still
  EXPECT_THAT(numbers(generator.output(2, "hot")), ElementsAre(1, 0, 0, 0));
  ASSERT_TRUE(generator.fork(0, 1).ok());
  EXPECT_FALSE(generator.output(1, "hot").ok());
  ASSERT_TRUE(generator.reset(0).ok());
  EXPECT_FALSE(generator.output(0, "hot").ok());
  EXPECT_THAT(generator.output(2, "other").status().message(), HasSubstr("no extra output 'other'"));
}

TEST_F(ExtraOutputsTest, AreRefusedWhereThereAreNone) {
  const Status missing = session({"nowhere"}).status();
  EXPECT_EQ(missing.code(), Code::kInvalidArgument);
  EXPECT_THAT(missing.message(), HasSubstr("has no tensor 'nowhere'"));
  const Result<Session> opened = session({"flags"});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Status wrong = Generator::create(*opened, {.batch = 1}).status();
  EXPECT_EQ(wrong.code(), Code::kInvalidArgument);
  EXPECT_THAT(wrong.message(), HasSubstr("'flags' is another"));
}

TEST_F(ExtraOutputsTest, InC) {
  hsmrt_error error = {};
  hsmrt_bundle* bundle = nullptr;
  ASSERT_EQ(hsmrt_bundle_open(write_counting_bundle(folder_).c_str(), 1, &bundle, &error), HSMRT_OK) << error.message;
  hsmrt_options* options = hsmrt_options_create();
  for (const auto& [name, value] : {std::pair("extra_outputs", "hot"), std::pair("backends", "onnxruntime-bodies"),
                                    std::pair("onnxruntime_library", options_.onnxruntime_library.c_str())}) {
    ASSERT_EQ(hsmrt_options_set(options, name, value, &error), HSMRT_OK) << error.message;
  }
  hsmrt_session* session = nullptr;
  ASSERT_EQ(hsmrt_session_open(bundle, HSMRT_DECODE, options, &session, &error), HSMRT_OK) << error.message;
  hsmrt_generator_options size = {};
  size.size = sizeof size, size.batch = 1;
  hsmrt_generator* generator = nullptr;
  ASSERT_EQ(hsmrt_generator_create_with(session, &size, &generator, &error), HSMRT_OK) << error.message;
  const std::int64_t token = 2;
  ASSERT_EQ(hsmrt_generator_step(generator, &token, 1, &error), HSMRT_OK) << error.message;
  const float* found = nullptr;
  std::size_t count = 0;
  ASSERT_EQ(hsmrt_generator_output(generator, 0, "hot", &found, &count, &error), HSMRT_OK) << error.message;
  EXPECT_THAT(std::vector<float>(found, found + count), ElementsAre(0, 0, 1, 0));
  EXPECT_EQ(hsmrt_generator_output(generator, 0, "cold", &found, &count, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_generator_output(generator, 0, nullptr, &found, &count, &error), HSMRT_INVALID_ARGUMENT);
  hsmrt_generator_close(generator);
  hsmrt_session_close(session);
  hsmrt_options_close(options);
  hsmrt_bundle_close(bundle);
}

}  // namespace
}  // namespace hsm::testing
