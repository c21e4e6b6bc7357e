// The places of TensorRT's virtual functions against its headers, and against real libraries where there are some.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/tensorrt/nvinfer.h"
#include "tests/runtime/devices/engine_bundle.h"

namespace hsm::testing {
namespace {

using namespace hsm::runtime::trt;  // NOLINT: the inside of the back end is under test
using ::testing::HasSubstr;

// Read from NVIDIA's published headers: 10.0 to 10.16, and 11.0 and 11.1.
TEST(Places, AreThoseOfThePublishedHeaders) {
  const auto expect = [](auto function, int place10, int place11) {
    EXPECT_EQ(place_in(Layout::kTensorRt10, function), place10);
    EXPECT_EQ(place_in(Layout::kTensorRt11, function), place11);
  };
  expect(kDeserialize, 3, 3);
  expect(&VRuntime::getPluginRegistry, 18, 17);
  expect(&VRuntime::setEngineHostCodeAllowed, 21, 20);
  expect(&VCudaEngine::createExecutionContext, 5, 5);
  expect(&VCudaEngine::getNbOptimizationProfiles, 10, 8);
  expect(&VCudaEngine::getTensorShape, 19, 15);
  expect(&VCudaEngine::getTensorDataType, 20, 16);
  expect(&VCudaEngine::isShapeInferenceIO, 22, 18);
  expect(&VCudaEngine::getTensorIOMode, 23, 19);
  expect(&VCudaEngine::getProfileShape, 29, 25);
  expect(&VCudaEngine::getNbIOTensors, 30, 26);
  expect(&VCudaEngine::getIOTensorName, 31, 27);
  expect(&VExecutionContext::setOptimizationProfileAsync, 17, 16);
  expect(&VExecutionContext::setInputShape, 21, 20);
  expect(&VExecutionContext::getTensorShape, 22, 21);
  expect(&VExecutionContext::setTensorAddress, 24, 23);
  expect(&VExecutionContext::inferShapes, 28, 27);
  expect(&VExecutionContext::enqueueV3, 37, 36);
  EXPECT_EQ(place_of(&nvinfer1::IPluginRegistry::loadLibrary), place_of(&tensorrt::abi10::Registry::load_library));
  EXPECT_EQ(place_of(&tensorrt::abi10::Registry::load_library), 10);
  EXPECT_EQ(place_of(&tensorrt::abi11::Registry::load_library), 6);
}

// The headers' own classes find their way into objects as the back end describes them. Not with sanitizers, which miss
// the classes' names in tables made by hand.
#ifdef HSM_TEST_READS_FAKE_OBJECTS
TEST(Places, TheHeadersReadTheFakeObjects) {
  fake_gpu().reset();
  fake_gpu().version = NV_TENSORRT_VERSION;
  const Nvinfer nvinfer = load_nvinfer(std::vector<const char*>{HSM_TEST_FAKE_GPU});
  LogSink sink;
  const LogScope log(sink);
  auto* runtime = static_cast<nvinfer1::IRuntime*>(nvinfer.create_runtime(nvinfer.logger, nvinfer.version));
  ASSERT_NE(runtime, nullptr);
  runtime->setEngineHostCodeAllowed(true);
  EXPECT_TRUE(fake_gpu().allowed_native_code);
  EXPECT_NE(runtime->getPluginRegistry().loadLibrary("plugins.so"), nullptr);
  nvinfer1::ICudaEngine* engine = runtime->deserializeCudaEngine("doubling", 8);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->getNbIOTensors(), 2);
  EXPECT_STREQ(engine->getIOTensorName(1), "y");
  EXPECT_EQ(engine->getNbOptimizationProfiles(), 2);
  EXPECT_EQ(engine->getTensorShape("x").d[1], 3);
  EXPECT_EQ(engine->getProfileShape("x", 0, nvinfer1::OptProfileSelector::kMAX).d[0], 8);
  nvinfer1::IExecutionContext* context = engine->createExecutionContext();
  ASSERT_NE(context, nullptr);
  EXPECT_FALSE(context->setInputShape("x", nvinfer1::Dims2(1, 3)));  // no profile yet
  delete context;
  delete engine;
  delete runtime;
  expect_clean();
}
#endif

std::vector<std::string> real_libraries() {
  const char* names = std::getenv("HSM_TEST_NVINFER");
  std::vector<std::string> libraries;
  std::stringstream text(names == nullptr ? "" : names);
  for (std::string name; std::getline(text, name, ':');) libraries.push_back(name);
  return libraries;
}

// Real libraries are asked in a process of their own: they stay loaded, and one brings what another lacks.
int ask_real_library(const std::string& name) {
  const Nvinfer nvinfer = load_nvinfer(std::vector<const char*>{name.c_str()});
  std::string said;
  LogSink sink{[](void* user, std::int32_t, const char* text) { *static_cast<std::string*>(user) += text; }, &said};
  const LogScope log(sink);
  const auto runtime = own(static_cast<nvinfer1::IRuntime*>(nvinfer.create_runtime(nvinfer.logger, nvinfer.version)));
  if (!runtime) return said.find("CUDA") == std::string::npos ? 1 : 0;  // without a driver
  call(nvinfer.layout, *runtime, &VRuntime::setEngineHostCodeAllowed, true);
  if (!call(nvinfer.layout, *runtime, &VRuntime::getEngineHostCodeAllowed)) return 2;
  if (load_plugins(nvinfer.layout, *runtime, "/nonexistent.so") != nullptr) return 3;
  if (said.find("/nonexistent.so") == std::string::npos) return 4;
  const std::string noise(256, 'x');
  said.clear();
  if (own(call(nvinfer.layout, *runtime, kDeserialize, noise.data(), noise.size()))) return 5;
  return said.find("deserializeCudaEngine") == std::string::npos ? 6 : 0;
}

TEST(RealLibraryDeathTest, UnderstandsWhatIsCalled) {
  if (real_libraries().empty()) GTEST_SKIP() << "HSM_TEST_NVINFER names no library of TensorRT";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const std::string& name : real_libraries()) {
    EXPECT_EXIT(std::_Exit(ask_real_library(name)), ::testing::ExitedWithCode(0), "") << name;
  }
}

// Exits with 0 when a session says that there is no GPU.
int open_real_session(const std::string& nvinfer, const std::string& cudart, const std::string& bundle) {
  hsm_runtime::SessionOptions options = fake_options();
  options.nvinfer_library = nvinfer;
  options.cudart_library = cudart;
  const auto session = hsm_runtime::Session::open(bundle, options);
  const std::string& why = session.status().message();
  const bool expected = session.status().code() == hsm_runtime::Code::kNoBackend &&
                        (why.find("CUDA finds no GPU here: ") != std::string::npos ||
                         why.find("this machine has") != std::string::npos);  // where there is one
  if (!expected) std::fprintf(stderr, "%s\n", why.c_str());
  return expected ? 0 : 1;
}

TEST(RealLibraryDeathTest, SaysThatThereIsNoGpu) {
  const char* cudart = std::getenv("HSM_TEST_CUDART");
  if (real_libraries().empty() || cudart == nullptr || *cudart == '\0') {
    GTEST_SKIP() << "HSM_TEST_NVINFER and HSM_TEST_CUDART name no libraries";
  }
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TemporaryFolder folder;
  const std::string bundle = write_engine_bundle(folder, {{.architectures = R"("sm999")"}});
  for (const std::string& name : real_libraries()) {
    EXPECT_EXIT(std::_Exit(open_real_session(name, cudart, bundle)), ::testing::ExitedWithCode(0), "") << name;
  }
}

}  // namespace
}  // namespace hsm::testing
