// libhsm_onnxruntime.so inside the real ONNX Runtime: numbers, threads, sessions that come and go, refusals.
//
// HSM_TEST_ONNXRUNTIME names the libonnxruntime.so to run in; the tests skip without it.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "onnxruntime/kernels.h"
#include "tests/cases.h"
#include "tests/guarded_ring.h"
#include "tests/onnxruntime/one_node_model.h"
#include "tests/testing.h"

namespace hsm {
namespace {

using opset::AttributeValue;
using opset::Operator;
using opset::Port;
using opset::Shape;
using testing::Buffer;

#if defined(__SANITIZE_THREAD__)
// ONNX Runtime's own pool is not instrumented, so ThreadSanitizer cannot see how its threads wait for each other.
constexpr int kPoolThreads = 1;
#else
constexpr int kPoolThreads = 2;
#endif
constexpr int kCallers = 4;
constexpr std::int64_t kTokens = 150;

// ONNX Runtime drops the status of a failed shape inference without releasing it. It is not ours to report.
struct DroppedStatus {
#if defined(__SANITIZE_ADDRESS__)
  __lsan::ScopedDisabler disabler;
#endif
};

DType port_type(const Port& port, DType type) {
  if (port.type == opset::ElementType::kInt64) return DType::kInt64;
  return port.type == opset::ElementType::kFloat32 ? DType::kFloat32 : type;
}

ONNXTensorElementDataType element_type(DType type) {
  switch (type) {
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case DType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::kFloat32:
      break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// One node with its inputs.
class Example {
 public:
  Example(const Operator& op, DType type, std::mt19937& random)
      : op_(op),
        type_(type),
        sizes_(testing::small_sizes(op, 2, kTokens)),
        attributes_(testing::small_case(op).attributes) {
    for (const Port& port : op.inputs) {
      shapes_.push_back(shape_of(port));
      inputs_.emplace_back(port_type(port, type), count(shapes_.back()));
      if (port.type == opset::ElementType::kInt64) {
        const auto [least, most] = testing::row_range(op, port, attributes_, sizes_);
        std::uniform_int_distribution<std::int64_t> any(least, most);
        auto* rows = static_cast<std::int64_t*>(inputs_.back().data());
        for (std::size_t i = 0; i < inputs_.back().size(); ++i) rows[i] = any(random);
      } else {
        testing::draw(op, inputs_.size() - 1, shapes_.back(), random,
                      [&](std::size_t i, double value) { inputs_.back().set(i, static_cast<float>(value)); });
      }
    }
  }

  std::string model() const { return testing::one_node_model(op_, type_, attributes_); }

  // What the kernel itself computes, on one thread.
  std::vector<Buffer> direct() const {
    std::vector<const void*> inputs;
    for (const Buffer& input : inputs_) inputs.push_back(input.data());
    std::vector<Buffer> outputs = blank_outputs();
    std::vector<void*> targets;
    for (Buffer& output : outputs) targets.push_back(output.data());
    onnxruntime::compute(op_, {type_, attributes_, shapes_, inputs, targets}, {});
    return outputs;
  }

  std::vector<Buffer> run(Ort::Session& session) const {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    std::vector<Buffer> outputs = blank_outputs();
    std::vector<Ort::Value> inputs;
    std::vector<Ort::Value> targets;
    std::vector<const char*> input_names;
    std::vector<const char*> output_names;
    for (std::size_t i = 0; i < op_.inputs.size(); ++i) {
      input_names.push_back(op_.inputs[i].name.data());
      inputs.push_back(tensor(memory, const_cast<Buffer&>(inputs_[i]), shapes_[i]));
    }
    for (std::size_t i = 0; i < op_.outputs.size(); ++i) {
      output_names.push_back(op_.outputs[i].name.data());
      targets.push_back(tensor(memory, outputs[i], shape_of(op_.outputs[i])));
    }
    session.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(), output_names.data(),
                targets.data(), targets.size());
    return outputs;
  }

  void set_input(std::size_t index, std::int64_t value) {
    static_cast<std::int64_t*>(inputs_[index].data())[0] = value;
  }
  std::string name() const { return std::string(op_.name) + " " + name_of(type_); }

 private:
  Shape shape_of(const Port& port) const { return testing::shape_of(port, sizes_); }
  static std::size_t count(const Shape& shape) {
    std::size_t product = 1;
    for (const std::int64_t size : shape) product *= static_cast<std::size_t>(size);
    return product;
  }
  static Ort::Value tensor(const Ort::MemoryInfo& memory, Buffer& buffer, const Shape& shape) {
    return Ort::Value::CreateTensor(memory, buffer.data(), buffer.size() * size_of(buffer.type()), shape.data(),
                                    shape.size(), element_type(buffer.type()));
  }
  // Zeroed, because rows of idle tokens are not written.
  std::vector<Buffer> blank_outputs() const {
    std::vector<Buffer> outputs;
    for (const Port& port : op_.outputs) outputs.emplace_back(port_type(port, type_), count(shape_of(port)));
    return outputs;
  }

  const Operator& op_;
  DType type_;
  testing::Sizes sizes_;
  std::vector<AttributeValue> attributes_;
  std::vector<Shape> shapes_;
  std::vector<Buffer> inputs_;
};

std::vector<Example> every_example(std::mt19937& random) {
  std::vector<Example> examples;
  for (const Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op)) continue;
    for (const DType type : testing::kTypes) examples.emplace_back(op, type, random);
  }
  return examples;
}

void expect_same(const Example& example, const std::vector<Buffer>& actual, const std::vector<Buffer>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(actual[i].same_bits(expected[i])) << example.name() << ", output " << i;
  }
}

class Library : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* path = std::getenv("HSM_TEST_ONNXRUNTIME");
    if (path == nullptr) return;
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(handle, nullptr) << dlerror();
    const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
    ASSERT_NE(base, nullptr);
    Ort::InitApi(base()->GetApi(ORT_API_VERSION));
    env_ = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "hsm");
  }
  static void TearDownTestSuite() { delete std::exchange(env_, nullptr); }

  void SetUp() override {
    if (env_ == nullptr) GTEST_SKIP() << "HSM_TEST_ONNXRUNTIME does not name a libonnxruntime.so to run in";
  }

  static Ort::SessionOptions with_library() {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(kPoolThreads);
    options.RegisterCustomOpsLibrary(HSM_TEST_LIBRARY);
    return options;
  }

  static Ort::Session load(const std::string& model) {
    return Ort::Session(*env_, model.data(), model.size(), with_library());
  }

  // Returns the sentence of the error that `body` ends with.
  template <typename F>
  static std::string refusal(F&& body) {
    try {
      body();
    } catch (const Ort::Exception& error) {
      return error.what();
    }
    return "";
  }

  static inline Ort::Env* env_ = nullptr;
};

TEST_F(Library, ThreadsOfOneSessionGetTheKernelsNumbers) {
  std::mt19937 random(1);
  for (const Example& example : every_example(random)) {
    const std::vector<Buffer> expected = example.direct();
    Ort::Session session = load(example.model());
    std::vector<std::thread> callers;
    for (int caller = 0; caller < kCallers; ++caller) {
      callers.emplace_back([&] {
        for (int i = 0; i < 3; ++i) expect_same(example, example.run(session), expected);
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
}

TEST_F(Library, SessionsComeAndGoInSeveralThreads) {
  std::mt19937 random(2);
  const std::vector<Example> examples = every_example(random);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::size_t i = 0; i < examples.size(); ++i) {
        const Example& example = examples[(i + static_cast<std::size_t>(caller) * 7) % examples.size()];
        Ort::Session session = load(example.model());
        expect_same(example, example.run(session), example.direct());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// The first sessions of a process, made at the same moment: each round is a process of its own.
TEST_F(Library, TheFirstSessionsMayBeMadeInSeveralThreads) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::mt19937 random(5);
  const std::string model = Example(*opset::find("TokenShift"), DType::kFloat32, random).model();
  const auto first_sessions = [&model] {
    constexpr int kFirstCallers = 2;  // with more threads than cores they would start one after the other
    std::atomic<int> ready = 0;
    const auto make = [&] {
      const Ort::SessionOptions options = with_library();
      ++ready;
      while (ready < kFirstCallers) {  // a latch would wake them one after the other
      }
      Ort::Session(*env_, model.data(), model.size(), options);
    };
    std::thread other(make);
    make();
    other.join();
    std::_Exit(0);
  };
  for (int round = 0; round < 20; ++round) EXPECT_EXIT(first_sessions(), ::testing::ExitedWithCode(0), "");
}

TEST_F(Library, TheLibraryIsLoadedAndUnloadedAgainAndAgain) {
  std::mt19937 random(3);
  const Example example(*opset::find("TaylorShift"), DType::kFloat32, random);
  const std::vector<Buffer> expected = example.direct();
  for (int i = 0; i < 200; ++i) {
    Ort::Session session = load(example.model());
    expect_same(example, example.run(session), expected);
  }
}

// One buffer for both names: a step reads and writes its own slots and nothing else of the ring, however long it is.
TEST_F(Library, AStepInPlaceTouchesOnlyTheSlotsOfItsToken) {
  constexpr std::size_t kSlots = 1000;
  constexpr std::size_t kPosition = 12345;
  testing::GuardedRing ring(kSlots);
  ring.allow_reading((kPosition - 700) % kSlots);
  ring.allow_writing(kPosition % kSlots);
  const std::vector<AttributeValue> attributes{{"shifts", {700}}};
  Ort::Session session = load(testing::one_node_model(*opset::find("ShiftMixCached"), DType::kFloat32, attributes));

  const auto width = static_cast<std::int64_t>(ring.width());
  std::vector<float> x(ring.width(), 3.0f), weights(ring.width(), 0.5f), y(ring.width());
  std::vector<std::int64_t> position{kPosition}, lengths{1};
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  const auto floats = [&](float* data, const Shape& shape) {
    const auto count = static_cast<std::size_t>(shape.size() == 1 ? width : shape[1] * width);
    return Ort::Value::CreateTensor<float>(memory, data, count, shape.data(), shape.size());
  };
  const Shape rows{1};
  const auto ints = [&](std::vector<std::int64_t>& values) {
    return Ort::Value::CreateTensor<std::int64_t>(memory, values.data(), 1, rows.data(), 1);
  };
  Ort::IoBinding binding(session);
  binding.BindInput("x", floats(x.data(), {1, 1, width}));
  binding.BindInput("alpha", floats(weights.data(), {width}));
  binding.BindInput("beta", floats(weights.data(), {width}));
  binding.BindInput("ring", floats(ring.data(), {1, kSlots, width}));
  binding.BindInput("position", ints(position));
  binding.BindInput("lengths", ints(lengths));
  binding.BindOutput("y", floats(y.data(), {1, 1, width}));
  binding.BindOutput("ring_out", floats(ring.data(), {1, kSlots, width}));
  session.Run(Ort::RunOptions(), binding);
  EXPECT_EQ(y.back(), 1.5f);
  EXPECT_EQ(ring.slot(kPosition % kSlots)[0], 3.0f);
}

// The weight's memory is overwritten after the session was made: only a packed copy still has the numbers.
TEST_F(Library, ConstantWeightsArePackedOnce) {
  constexpr std::int64_t kTokens = 128, kHeads = 2, kExperts = 2, kWidth = 40, kHeadWidth = 24;
  std::mt19937 random(5);
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  for (const std::string limit : {"", "0", "1"}) {
    const Shape weight_shape{kHeads, kExperts, kWidth, kHeadWidth};
    const std::vector<AttributeValue> attributes{{"k", {2}}};
    const std::string model = testing::one_node_model(*opset::find("ExpertMatMul"), DType::kFloat32, attributes,
                                                      {{"weight", {weight_shape, true}}});
    Buffer weight(DType::kFloat32, kHeads * kExperts * kWidth * kHeadWidth);
    weight.randomize(random);
    const Ort::Value value = Ort::Value::CreateTensor<float>(memory, static_cast<float*>(weight.data()), weight.size(),
                                                             weight_shape.data(), 4);
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    options.AddInitializer("weight", value);
    if (!limit.empty()) options.AddConfigEntry("hsm.packed_weights_mib", limit.c_str());
    options.RegisterCustomOpsLibrary(HSM_TEST_LIBRARY);
    Ort::Session session(*env_, model.data(), model.size(), options);

    Buffer x(DType::kFloat32, kTokens * kWidth), logits(DType::kFloat32, kTokens * kHeads * kExperts);
    x.randomize(random);
    logits.randomize(random);
    const auto run = [&] {
      const Shape x_shape{1, kTokens, kWidth}, logits_shape{1, kTokens, kHeads, kExperts},
          y_shape{1, kTokens, kHeads, kHeadWidth};
      Buffer y(DType::kFloat32, kTokens * kHeads * kHeadWidth);
      const auto tensor = [&](Buffer& buffer, const Shape& shape) {
        return Ort::Value::CreateTensor<float>(memory, static_cast<float*>(buffer.data()), buffer.size(), shape.data(),
                                               shape.size());
      };
      std::vector<Ort::Value> inputs, outputs;
      inputs.push_back(tensor(x, x_shape));
      inputs.push_back(tensor(logits, logits_shape));
      outputs.push_back(tensor(y, y_shape));
      const char* names[] = {"x", "logits"};
      const char* output = "y";
      session.Run(Ort::RunOptions(), names, inputs.data(), 2, &output, outputs.data(), 1);
      return y;
    };
    const Buffer before = run();
    weight.poison();
    const Buffer after = run();
    EXPECT_FALSE(std::isnan(before.at(0)));
    EXPECT_EQ(before.same_bits(after), limit != "0") << "limit '" << limit << "'";
  }
}

TEST_F(Library, APackingLimitThatIsNoNumberIsRefusedWithASentence) {
  for (const char* limit : {"", "-1", "many", "1 ", "99999999999999999999"}) {
    Ort::SessionOptions options;
    options.AddConfigEntry("hsm.packed_weights_mib", limit);
    EXPECT_THAT(refusal([&] { options.RegisterCustomOpsLibrary(HSM_TEST_LIBRARY); }),
                ::testing::HasSubstr("hsm.packed_weights_mib must be a whole number of MiB"));
  }
}

TEST_F(Library, WrongShapesThatTheModelStatesAreRefusedWhenItIsLoaded) {
  [[maybe_unused]] const DroppedStatus dropped;
  const Operator& op = *opset::find("TokenShiftCached");
  const std::vector<AttributeValue> attributes{{"shifts", {9}}};
  const auto model = [&](Shape x, Shape ring) {
    return testing::one_node_model(op, DType::kFloat32, attributes,
                                   {{"x", {std::move(x)}}, {"ring", {std::move(ring)}}});
  };
  EXPECT_EQ(refusal([&] { load(model({1, 4, 16}, {1, 9, 16})); }), "");
  EXPECT_THAT(refusal([&] { load(model({1, 4, 16}, {1, 8, 16})); }),
              ::testing::HasSubstr("fewer than the largest shift"));
  EXPECT_THAT(refusal([&] { load(model({1, 4, 16}, {1, 9, 15})); }), ::testing::HasSubstr("another input has 16"));
}

TEST_F(Library, BadAttributesAreRefusedWithASentence) {
  [[maybe_unused]] const DroppedStatus dropped;
  const Operator& op = *opset::find("ShiftMixCached");
  const auto model = [&](std::vector<std::int64_t> shifts) {
    const std::vector<AttributeValue> values{{"shifts", std::move(shifts)}};
    return testing::one_node_model(op, DType::kFloat32, values);
  };
  EXPECT_THAT(refusal([&] { load(model({1, -1})); }), ::testing::HasSubstr("shifts must be at least 0, got -1"));
  EXPECT_NE(refusal([&] { load(model({})); }), "");
}

TEST_F(Library, BadRowsAreRefusedWithASentence) {
  std::mt19937 random(4);
  Example example(*opset::find("TaylorShiftMasked"), DType::kFloat32, random);
  Ort::Session session = load(example.model());
  example.set_input(4, 151);
  EXPECT_THAT(refusal([&] { example.run(session); }), ::testing::HasSubstr("lengths is 151 in row 0"));
  example.set_input(4, std::numeric_limits<std::int64_t>::min());
  EXPECT_NE(refusal([&] { example.run(session); }), "");
}

}  // namespace
}  // namespace hsm
