// What an ONNX file says of itself, held against a bundle's manifest: a contradiction is a bad bundle when it is
// opened.
#include "runtime/onnx_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "hsm_runtime/bundle.h"
#include "runtime/error.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace hsm_runtime;  // NOLINT

runtime::OnnxSignature signature_of(const std::string& file) {
  return runtime::read_signature(std::as_bytes(std::span(file)), "the file");
}

TEST(OnnxFile, SaysWhatItReadsAndWrites) {
  const auto signature = signature_of(counting_model() + onnx_metadata("a", "b") + onnx_metadata("a", "c"));
  ASSERT_EQ(signature.inputs.size(), 4u);
  EXPECT_EQ(signature.inputs.at("tokens").dtype, DType::kInt64);
  EXPECT_THAT(*signature.inputs.at("tokens").shape, ElementsAre("batch", "length"));
  EXPECT_THAT(*signature.inputs.at("past.0.sum").shape, ElementsAre("batch", std::int64_t{1}, std::int64_t{4}));
  EXPECT_EQ(signature.outputs.size(), 2u);
  EXPECT_TRUE(signature.outputs.contains("logits"));
  EXPECT_EQ(signature.metadata.at("a"), "c");
}

TEST(OnnxFile, TakesNegativeSizesForDynamicOnes) {
  EXPECT_THAT(*signature_of(doubling_model("-1")).inputs.at("x").shape, ElementsAre("", std::int64_t{3}));
}

TEST(OnnxFile, SurvivesEveryCutAndEveryFlippedBit) {
  const std::string good = counting_model() + onnx_metadata("key", "value");
  int refused = 0;
  const auto read = [&](const std::string& file) {
    try {
      signature_of(file);
    } catch (const runtime::Error& error) {
      EXPECT_EQ(error.code, Code::kBadBundle);
      ++refused;
    }
  };
  for (std::size_t length = 0; length < good.size(); ++length) read(good.substr(0, length));
  EXPECT_GT(refused, static_cast<int>(good.size() / 2));
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string file = good;
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << (bit % 8)));
    read(file);
  }
  read(std::string(100, static_cast<char>(0xff)));
  read("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f");
}

constexpr const char* kState =
    R"({"schema": 2, "tensors": [{"name": "0.sum", "dtype": "float32", "shape": ["batch", 1, 4], "capacity_axis": null,
 "rollback": "slots", "spare": 2, "in_place": true}], "capacity": null, "rollback": 2, "max_length": 9,
 "last_logits": false})";

Status opened(const Changes& changes, const CountingState& state = {}) {
  const TemporaryFolder folder;
  return Bundle::open(write_counting_bundle(folder, state, changes)).status();
}

void expect_bad(const Changes& changes, const std::string& words, const CountingState& state = {}) {
  const Status status = opened(changes, state);
  EXPECT_EQ(status.code(), Code::kBadBundle) << words;
  EXPECT_THAT(status.message(), HasSubstr(words));
}

TEST(OnnxFile, IsHeldAgainstTheManifest) {
  EXPECT_TRUE(opened({}).ok());
  EXPECT_TRUE(opened({"", "", onnx_metadata("hsm_export.state", kState)}).ok());
  expect_bad({R"("length", 4]})", R"("length", 2147483647]})"},
             "the output 'logits' is float32 (batch, length, 4), the "
             "bundle's manifest says float32 (batch, length, 2147483647)");
  expect_bad({R"("name": "lengths", "dtype": "int64")", R"("name": "lengths", "dtype": "int32")"},
             "the input 'lengths'");
  expect_bad({R"("name": "x", "dtype")", R"("name": "z", "dtype")"}, "has no input 'z'");
  expect_bad({R"({"name": "position", "dtype": "int64", "shape": ["batch"]},)", ""}, "it lacks the input 'position'");
  expect_bad({"[{\"name\": \"0.sum\"", "[{\"name\": \"1.sum\""}, "which the graph lacks, or has it twice");
  expect_bad({R"("shape": ["batch", 1, 4], "spare")", R"("shape": ["batch", 2, 4], "spare")"}, "the state 0.sum is");
  expect_bad({R"("spare": 2)", R"("spare": 1048576)", onnx_metadata("hsm_export.state", kState)}, "its state is not");
  expect_bad({"", "", onnx_metadata("hsm_export.state", kState)}, "its state is not", kCountingSums);
  expect_bad({"", "", onnx_metadata("hsm_export.state", "{")}, "its state");
  expect_bad({"", "", onnx_metadata("hsm_export.inputs", "[1]")}, "its inputs");
}

}  // namespace
}  // namespace hsm::testing
