// Which engine and which plugins the TensorRT back end loads, and what it says when there is none.
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sha256.h"
#include "tests/runtime/devices/tensorrt_test.h"

namespace hsm::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(TensorRtTest, SaysWhichEngineFitsAndWhyNot) {
  fake_gpu().sm = 90, fake_gpu().version = 110400;
  expect_none({{.version = "10.14"}},
              "tensorrt: engines/a.engine is for sm86 and TensorRT 10.14; this machine has sm90 and TensorRT 11.4.0");
  expect_none({{.version = "11.4.0.106"}}, "engines/a.engine is for sm86; this machine has sm90");
  expect_none({{.architectures = R"("sm90")"}},
              "engines/a.engine is for TensorRT 10.14.1; this machine has TensorRT 11.4.0");
  expect_none({{.target = "tensorrt-rtx", .version = "1.7.1", .architectures = R"("sm90", "sm120")"}},
              "is for TensorRT-RTX 1.7.1; this machine has TensorRT 11.4.0");
  expect_none({{.of = "model", .architectures = R"("sm100+")"}}, "is for sm100+ and TensorRT 10.14.1");
  fake_gpu().reset();
  fake_gpu().sm = 89;
  const Result<Session> session = open({{.file = "engines/a.engine", .architectures = R"("sm80+")"},
                                        {.file = "engines/b.engine", .architectures = R"("sm86", "sm89")"}});
  ASSERT_TRUE(session.ok()) << session.status().message();
  fake_gpu().reset();
  fake_gpu().sm = 89;
  fake_gpu().failing = "deserializeCudaEngine";
  const Result<Session> next = open(
      {{.file = "engines/a.engine", .architectures = R"("sm80+")"}, {.file = "engines/b.engine", .architectures = ""}});
  EXPECT_TRUE(next.ok()) << next.status().message();  // the second one, after the first failed
}

TEST_F(TensorRtTest, LoadsPluginsOnlyWhereTheyAreNeededAndAllowed) {
  expect_none({{.plugins = true}}, "the plugin library that engines/a.engine needs is not there: ");
  EXPECT_THAT(fake_gpu().plugin_libraries, IsEmpty());
  expect_none({{.plugins = true, .embedded = true}}, "loads only with the option allow_embedded_plugins");

  options_.plugin_library = fake_gpu_library();
  {
    const Result<Session> session = open({{.plugins = true}});
    ASSERT_TRUE(session.ok()) << session.status().message();
    EXPECT_THAT(fake_gpu().plugin_libraries, ElementsAre(fake_gpu_library()));
    EXPECT_FALSE(fake_gpu().allowed_native_code);
  }
  fake_gpu().reset();
  options_.allow_embedded_plugins = true;
  {
    const Result<Session> session = open({{.plugins = true, .embedded = true}});
    ASSERT_TRUE(session.ok()) << session.status().message();
    EXPECT_THAT(fake_gpu().plugin_libraries, IsEmpty());
    EXPECT_TRUE(fake_gpu().allowed_native_code);
  }
  fake_gpu().reset();
  fake_gpu().failing = "loadLibrary";
  expect_none({{.plugins = true}}, "cannot load the plugins of " + fake_gpu_library());
}

// Has the manifest of a bundle name a plugin library of others, of that content.
void name_library(const std::filesystem::path& bundle, std::string_view content) {
  std::stringstream text;
  text << std::ifstream(bundle / "manifest.json").rdbuf();
  std::string manifest = text.str();
  const std::string schema = "\"schema\": 1";
  manifest.replace(manifest.find(schema), schema.size(),
                   R"("schema": 2, "libraries": [{"file": "libacme_tensorrt.so", "adapter": "tensorrt", "sha256": ")" +
                       runtime::sha256(std::as_bytes(std::span(content))) + R"(", "operators": ["acme::Mix"]}])");
  std::ofstream(bundle / "manifest.json") << manifest;
}

TEST_F(TensorRtTest, LoadsThePluginsOfOthersWithTheManifestsDigest) {
  const std::string bundle = write_engine_bundle(folder_, {{.plugins = true}});
  name_library(bundle, "right");
  const std::filesystem::path library = folder_.path() / "libacme_tensorrt.so";
  options_.plugin_library = fake_gpu_library();
  options_.operator_libraries = folder_.path().string();
  const auto refusal = [&] { return Session::open(bundle, options_).status().message(); };
  EXPECT_THAT(refusal(), HasSubstr("libacme_tensorrt.so, which runs acme::Mix, is not installed here"));
  std::ofstream(library) << "wrong";
  EXPECT_THAT(refusal(), HasSubstr("its SHA-256 differs"));
  EXPECT_THAT(fake_gpu().plugin_libraries, IsEmpty());
  std::ofstream(library) << "right";
  const Result<Session> session = Session::open(bundle, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_THAT(fake_gpu().plugin_libraries, ElementsAre(library.string(), fake_gpu_library()));
}

TEST_F(TensorRtTest, SaysWhatIsMissing) {
  expect_none({}, "the bundle holds no engine of model.onnx");
  const auto with = [&](const auto& change, const std::string& words) {
    change(options_);
    expect_none(kOneEngine, words);
    options_ = fake_options();
  };
  with([](SessionOptions& o) { o.tensorrt_backend = "/nonexistent.so"; }, "the TensorRT back end is not there");
  with([](SessionOptions& o) { o.tensorrt_backend = fake_gpu_library(); }, "has no hsmrt_backend_tensorrt_v2");
  with([](SessionOptions& o) { o.nvinfer_library = "/nonexistent.so"; }, "TensorRT cannot be loaded (/nonexistent.so");
  with([](SessionOptions& o) { o.nvinfer_library = "libm.so.6"; }, "has no getInferLibVersion");
  with([](SessionOptions& o) { o.cudart_library = "/nonexistent.so"; }, "runtime library cannot be loaded");
  with([](SessionOptions& o) { o.cudart_library = "libm.so.6"; }, "has no cudaGetDeviceCount");
  with([](SessionOptions& o) { o.nvinfer_library.clear(); }, "libnvinfer.so.10");
  with([](SessionOptions& o) { o.device = 1; }, "there is no GPU 1; CUDA counts 1");
  options_.device = -1;
  EXPECT_EQ(open().status().code(), Code::kInvalidArgument);
  options_ = fake_options();
  std::ofstream(folder_.path() / "text.so") << "no library";
  with([&](SessionOptions& o) { o.tensorrt_backend = (folder_.path() / "text.so").string(); },
       "the TensorRT back end cannot be loaded");
  fake_gpu().devices = 0;
  expect_none(kOneEngine, "CUDA finds no GPU here: no CUDA-capable device is detected");
  fake_gpu().reset();
  fake_gpu().version = 8601;
  expect_none(kOneEngine, "TensorRT is too old");
}

TEST_F(TensorRtTest, RefusesEnginesThatAreNotTheModels) {
  expect_none({{.content = "noise"}}, "TensorRT cannot read engines/a.engine: the magic tag does not match");
  expect_none({{.content = "counting"}}, "engines/a.engine is of another model than model.onnx: the input 'tokens'");
  fake_gpu().has_strange_type = true;
  expect_none(kOneEngine, "the input 'x' has another type or rank there");
  fake_gpu().reset();
  fake_gpu().has_shape_tensor = true;
  expect_none(kOneEngine, "computes shapes from the numbers in 'x'");
  fake_gpu().reset();
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  fake_gpu().has_unknown_output = true;
  std::array<float, 3> x = {}, y = {};
  const Status status =
      session->run(std::array{named("x", x.data(), kOneRow)}, std::array{named("y", y.data(), kOneRow)});
  EXPECT_EQ(status.code(), Code::kRunFailed);
  EXPECT_THAT(status.message(), HasSubstr("the shape of 'y' depends on numbers"));
}

TEST_F(TensorRtTest, PassesOnWhatTensorRtSays) {
  std::vector<std::string> log;
  options_.log = [&](LogLevel, std::string_view text) { log.emplace_back(text); };
  {
    const Result<Session> session = open();
    EXPECT_TRUE(session.ok()) << session.status().message();
  }
  EXPECT_THAT(log, Contains("TensorRT: loaded an engine"));
  EXPECT_THAT(log.back(), HasSubstr("model.onnx runs in tensorrt"));
  log.clear();
  expect_none({{.content = "noise"}}, "the magic tag does not match");
  EXPECT_THAT(log, Contains("TensorRT: a second error"));
}

// Whatever fails, and whenever: an error, no crash, nothing left.

}  // namespace
}  // namespace hsm::testing
