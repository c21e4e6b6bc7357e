// The library's entry points, and what differs between the versions of TensorRT that load it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "tensorrt/abi.h"
#include "tensorrt/library.h"
#include "tests/tensorrt/allocation.h"
#include "tests/tensorrt/builder.h"
#include "tests/tensorrt/device.h"
#include "tests/tensorrt/recorder.h"

namespace hsm::testing {
namespace {

using tensorrt::Layout;

TEST(Library, ListsACreatorForEachOperator) {
  std::int32_t count = -1;
  nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
  ASSERT_EQ(count, static_cast<std::int32_t>(cuda_operators().size()));
  std::set<std::string> names;
  for (std::int32_t i = 0; i < count; ++i) {
    EXPECT_STREQ(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE");
    auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    names.insert(creator->getPluginName());
    const opset::Operator* op = opset::find(creator->getPluginName());
    ASSERT_NE(op, nullptr);
    EXPECT_EQ(creator->getPluginNamespace(), op->domain);
    EXPECT_EQ(creator->getPluginVersion(), op->plugin_version);
    // TensorRT's parser passes the listed fields only.
    std::set<std::string> fields;
    for (std::int32_t j = 0; j < creator->getFieldNames()->nbFields; ++j) {
      fields.insert(creator->getFieldNames()->fields[j].name);
    }
    std::set<std::string> attributes;
    for (const opset::Attribute& attribute : op->attributes) attributes.emplace(attribute.name);
    EXPECT_EQ(fields, attributes);
  }
  EXPECT_EQ(names.size(), cuda_operators().size());
}

// ---------------------------------------------------------------- versions

TEST(Library, KnowsTheLayoutOfEachVersion) {
  EXPECT_EQ(tensorrt::layout_of(8601), Layout::kUnknown);      // 8.6.1
  EXPECT_EQ(tensorrt::layout_of(10000), Layout::kUnknown);     // TensorRT-RTX 1.0
  EXPECT_EQ(tensorrt::layout_of(10701), Layout::kTensorRt11);  // TensorRT-RTX 1.7.1
  EXPECT_EQ(tensorrt::layout_of(101401), Layout::kTensorRt10);
  EXPECT_EQ(tensorrt::layout_of(110400), Layout::kTensorRt11);
}

// What the description of the other version's classes must be able to do: TensorRT's own classes are of one version.
class Logger11 : public tensorrt::abi11::Logger {
 public:
  std::int32_t language() const noexcept override { return 0; }
  void interface_info() const noexcept override { ADD_FAILURE() << "nobody asked"; }
  void log(std::int32_t severity, const char* text) noexcept override {
    message = std::to_string(severity) + " " + text;
  }
  std::string message;
};

class Finder11 : public tensorrt::abi11::LoggerFinder {
 public:
  std::int32_t language() const noexcept override { return 0; }
  void interface_info() const noexcept override { ADD_FAILURE() << "nobody asked"; }
  tensorrt::abi11::Logger* find() override { return &logger; }
  Logger11 logger;
};

TEST(Library, LogsThroughTheFinderOfEitherVersion) {
  {
    Recorder recorder;
    tensorrt::log(tensorrt::Severity::kWarning, "to the headers' version");
    EXPECT_THAT(recorder.messages, ::testing::ElementsAre("to the headers' version"));
  }
  Finder11 finder;
  tensorrt::set_logger_finder(static_cast<tensorrt::abi11::LoggerFinder*>(&finder), Layout::kTensorRt11);
  tensorrt::log(tensorrt::Severity::kInfo, "to TensorRT 11");
  EXPECT_EQ(finder.logger.message, "3 to TensorRT 11");
  setLoggerFinder(nullptr);
}

TEST(Library, LogsToStderrWhereTheVersionIsUnknown) {
  Finder11 finder;
  // Its class lives in no TensorRT library.
  setLoggerFinder(reinterpret_cast<nvinfer1::ILoggerFinder*>(static_cast<tensorrt::abi11::LoggerFinder*>(&finder)));
  ::testing::internal::CaptureStderr();
  tensorrt::log(tensorrt::Severity::kError, "an error");
  tensorrt::log(tensorrt::Severity::kInfo, "not for stderr");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "an error\n");
  EXPECT_EQ(finder.logger.message, "");
  setLoggerFinder(nullptr);
}

#if NV_TENSORRT_MAJOR == 10
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // the functions for V2 plugins
// A registry as the headers declare it; only one of its functions may be called.
class Registry : public nvinfer1::IPluginRegistry {
 public:
  bool registerCreator(nvinfer1::IPluginCreatorInterface& creator, const char* const name_space) noexcept override {
    registered.emplace_back(&creator, name_space);
    return true;
  }
  std::vector<std::pair<void*, std::string>> registered;

  bool registerCreator(nvinfer1::IPluginCreator&, const char* const) noexcept override { std::abort(); }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t* const) const noexcept override { std::abort(); }
  nvinfer1::IPluginCreator* getPluginCreator(const char* const, const char* const,
                                             const char* const) noexcept override {
    std::abort();
  }
  void setErrorRecorder(nvinfer1::IErrorRecorder* const) noexcept override { std::abort(); }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { std::abort(); }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { std::abort(); }
  bool isParentSearchEnabled() const override { std::abort(); }
  void setParentSearchEnabled(const bool) override { std::abort(); }
  void* loadLibrary(const char*) noexcept override { std::abort(); }
  void deregisterLibrary(void*) noexcept override { std::abort(); }
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(std::int32_t* const) const noexcept override {
    std::abort();
  }
  nvinfer1::IPluginCreatorInterface* getCreator(const char* const, const char* const,
                                                const char* const) noexcept override {
    std::abort();
  }
  bool deregisterCreator(const nvinfer1::IPluginCreatorInterface&) noexcept override { std::abort(); }
  nvinfer1::IPluginResource* acquirePluginResource(const char*, nvinfer1::IPluginResource*) noexcept override {
    std::abort();
  }
  std::int32_t releasePluginResource(const char*) noexcept override { std::abort(); }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(std::int32_t* const) noexcept override {
    std::abort();
  }
};

HSM_FOREIGN_CLASS bool register_as_described(void* registry, void* creator) {
  return static_cast<tensorrt::abi10::Registry*>(registry)->register_creator(creator, "hsm");
}

TEST(Library, RegistersWithTheRegistryOfTensorRt10) {
  Registry registry;
  int creator = 0;
  // As between two libraries: the compiler must not see that one class is read as the other.
  void* volatile opaque = static_cast<nvinfer1::IPluginRegistry*>(&registry);
  EXPECT_TRUE(register_as_described(opaque, &creator));
  EXPECT_THAT(registry.registered, ::testing::ElementsAre(std::pair<void*, std::string>(&creator, "hsm")));
}
#pragma GCC diagnostic pop
#endif

// ---------------------------------------------------------------- exceptions

// Runs `body` with its first allocation failing, its second, and so on, until it needs no more. A crash is a failure.
template <typename Body>
void fail_every_allocation(Body body) {
  std::size_t attempts = 0;
  do {
    failing_allocation = ++attempts;
    allocations = 0;
    body();
    failing_allocation = 0;
  } while (allocations >= attempts);
  EXPECT_GT(attempts, 1U) << "nothing was allocated: the test tests nothing";
}

TEST(Library, NoExceptionLeavesAPlugin) {
  emulate(86);
  Recorder recorder;
  recorder.messages.reserve(10000);
  for (const opset::Operator* each : cuda_operators()) {
    const opset::Operator& op = *each;
    const auto attributes = some_attributes(op);
    const FieldList fields(attributes);
    tensorrt::Creator creator(op);
    fail_every_allocation(
        [&] { delete creator.createPlugin("node", fields.collection(), nvinfer1::TensorRTPhase::kBUILD); });
    const PluginPointer plugin = create(op, attributes);
    fail_every_allocation([&] { delete plugin->clone(); });
    fail_every_allocation([&] { delete runtime(plugin).attachToContext(nullptr); });
    fail_every_allocation([&] { runtime(plugin).getFieldsToSerialize(); });
    const Sizes sizes = small_sizes(op, 1, 4);
    const auto profile = describe(op.inputs, DType::kFloat16, sizes, sizes, sizes);
    const auto now = describe(op.inputs, DType::kFloat16, sizes);
    const auto count = static_cast<std::int32_t>(profile.size());
    fail_every_allocation([&] { build(plugin).configurePlugin(profile.data(), count, nullptr, 0); });
    fail_every_allocation([&] { build(plugin).getWorkspaceSize(profile.data(), count, nullptr, 0); });
    fail_every_allocation([&] { runtime(plugin).onShapeChange(now.data(), count, nullptr, 0); });
    Expressions expressions;
    const auto inputs = expressions.inputs(op.inputs, sizes, false);
    std::vector<nvinfer1::DimsExprs> outputs(op.outputs.size());
    fail_every_allocation([&] {
      build(plugin).getOutputShapes(inputs.data(), count, nullptr, 0, outputs.data(),
                                    static_cast<std::int32_t>(outputs.size()), expressions);
    });
  }
}

}  // namespace
}  // namespace hsm::testing
