// The places of TensorRT's virtual functions against its headers, and against real libraries where there are some.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/tensorrt/nvinfer.h"
#include "tests/runtime/devices/engine_bundle.h"

#ifdef HSM_TEST_TENSORRT_HEADERS
#include <NvInferRuntime.h>
#endif

namespace hsm::testing {
namespace {

using namespace hsm::runtime::trt;  // NOLINT: the inside of the back end is under test
using ::testing::HasSubstr;

#ifdef HSM_TEST_TENSORRT_HEADERS
constexpr const Slots& kSlots = NV_TENSORRT_MAJOR >= 11 ? kSlots11 : kSlots10;

// The place of a virtual function, as the Itanium C++ ABI puts it into a pointer to it: on x86-64 as an odd offset, on
// Arm as an even one with the odd bit in the second half.
template <typename F>
int place_of(F function) {
  struct Representation {
    std::size_t offset, adjustment;
  };
  const auto [offset, adjustment] = std::bit_cast<Representation>(function);
  return static_cast<int>((offset - offset % 2) / sizeof(void*) + 0 * adjustment);
}

TEST(Slots, AreThoseOfTheHeaders) {
  using namespace nvinfer1::apiv;  // NOLINT: the classes that have the tables
  using Deserialize = nvinfer1::ICudaEngine* (VRuntime::*)(const void*, std::size_t) noexcept;
  EXPECT_EQ(kSlots.deserialize, place_of(static_cast<Deserialize>(&VRuntime::deserializeCudaEngine)));
  EXPECT_EQ(kSlots.plugin_registry, place_of(&VRuntime::getPluginRegistry));
  EXPECT_EQ(kSlots.allow_native_code, place_of(&VRuntime::setEngineHostCodeAllowed));
  EXPECT_EQ(kSlots.create_context, place_of(&VCudaEngine::createExecutionContext));
  EXPECT_EQ(kSlots.profile_count, place_of(&VCudaEngine::getNbOptimizationProfiles));
  EXPECT_EQ(kSlots.tensor_shape, place_of(&VCudaEngine::getTensorShape));
  EXPECT_EQ(kSlots.tensor_type, place_of(&VCudaEngine::getTensorDataType));
  EXPECT_EQ(kSlots.is_shape_tensor, place_of(&VCudaEngine::isShapeInferenceIO));
  EXPECT_EQ(kSlots.tensor_mode, place_of(&VCudaEngine::getTensorIOMode));
  EXPECT_EQ(kSlots.profile_shape, place_of(&VCudaEngine::getProfileShape));
  EXPECT_EQ(kSlots.tensor_count, place_of(&VCudaEngine::getNbIOTensors));
  EXPECT_EQ(kSlots.tensor_name, place_of(&VCudaEngine::getIOTensorName));
  EXPECT_EQ(kSlots.set_profile, place_of(&VExecutionContext::setOptimizationProfileAsync));
  EXPECT_EQ(kSlots.set_input_shape, place_of(&VExecutionContext::setInputShape));
  EXPECT_EQ(kSlots.context_shape, place_of(&VExecutionContext::getTensorShape));
  EXPECT_EQ(kSlots.set_address, place_of(&VExecutionContext::setTensorAddress));
  EXPECT_EQ(kSlots.infer_shapes, place_of(&VExecutionContext::inferShapes));
  EXPECT_EQ(kSlots.enqueue, place_of(&VExecutionContext::enqueueV3));
  EXPECT_EQ(kSlots.load_library, place_of(&nvinfer1::IPluginRegistry::loadLibrary));
}

TEST(Slots, NumbersAndSizesAreThoseOfTheHeaders) {
  EXPECT_EQ(sizeof(Dims), sizeof(nvinfer1::Dims64));
  EXPECT_EQ(kInput, static_cast<std::int32_t>(nvinfer1::TensorIOMode::kINPUT));
  EXPECT_EQ(kMin, static_cast<std::int32_t>(nvinfer1::OptProfileSelector::kMIN));
  EXPECT_EQ(kMax, static_cast<std::int32_t>(nvinfer1::OptProfileSelector::kMAX));
  EXPECT_EQ(kStaticAllocation, static_cast<std::int32_t>(nvinfer1::ExecutionContextAllocationStrategy::kSTATIC));
  EXPECT_EQ(static_cast<int>(nvinfer1::DataType::kBF16), 7);
  EXPECT_EQ(static_cast<int>(nvinfer1::DataType::kINT64), 8);
}

#endif

// The headers' own classes find their way into objects as the back end describes them. Not with sanitizers, which miss
// the classes' names in tables made by hand.
#ifdef HSM_TEST_READS_FAKE_OBJECTS
TEST(Slots, TheHeadersReadTheFakeObjects) {
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
  const OwnedInterface runtime = own(nvinfer.create_runtime(nvinfer.logger, nvinfer.version));
  if (!runtime) return said.find("CUDA") == std::string::npos ? 1 : 0;  // without a driver
  const Slots& slots = *nvinfer.slots;
  call<void>(runtime.get(), slots.allow_native_code, true);
  if (!call<bool>(runtime.get(), slots.allow_native_code + 1)) return 2;  // getEngineHostCodeAllowed
  void* registry = call<void*>(runtime.get(), slots.plugin_registry);
  if (call_virtual<void*>(registry, slots.load_library, static_cast<const char*>("/nonexistent.so")) != nullptr)
    return 3;
  if (said.find("/nonexistent.so") == std::string::npos) return 4;
  const std::string noise(256, 'x');
  said.clear();
  if (own(call<void*>(runtime.get(), slots.deserialize, static_cast<const void*>(noise.data()), noise.size())))
    return 5;
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
