// Sessions inside a real ONNX Runtime: numbers, memory, refusals, threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "hsm_runtime/generator.h"
#include "hsm_runtime/session.h"
#include "runtime/onnxruntime/library.h"
#include "tests/runtime/allocations.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionTest : public DoublingTest {
 protected:
  Session session() {
    Result<Session> session = Session::open(*bundle_, Part::kModel, options_);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *session;
  }
};

template <typename T>
NamedTensor named(std::string_view name, std::vector<T>& data, DType dtype, std::span<const std::int64_t> shape) {
  return {name, {data.data(), dtype, shape}};
}

TEST_F(SessionTest, WritesIntoTheCallersMemory) {
  const Session session = this->session();
  for (const std::int64_t batch : {1, 2, 5}) {
    const std::array<std::int64_t, 2> shape = {batch, 3};
    std::vector<float> x(3 * batch), y(3 * batch, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - 1.5f;
    const std::array in = {named("x", x, DType::kFloat32, shape)};
    const std::array out = {named("y", y, DType::kFloat32, shape)};
    const Status status = session.run(in, out);
    ASSERT_TRUE(status.ok()) << status.message();
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], 2 * x[i]);
  }
}

TEST_F(SessionTest, ReturnsTensorsThatOutliveIt) {
  std::optional<Session> session(this->session());
  std::vector<float> x = {1, 2, 3};
  const std::array<std::int64_t, 2> shape = {1, 3};
  Result<std::vector<Tensor>> results = session->run(std::array{named("x", x, DType::kFloat32, shape)});
  ASSERT_TRUE(results.ok()) << results.status().message();
  session.reset();
  bundle_.reset();
  const Tensor y = results->at(0);
  EXPECT_EQ(y.name(), "y");
  EXPECT_THAT(std::vector(y.shape().begin(), y.shape().end()), ElementsAre(1, 3));
  const auto values = y.values<float>();
  EXPECT_THAT(std::vector(values.begin(), values.end()), ElementsAre(2, 4, 6));
}

TEST_F(SessionTest, RefusesTensorsThatDoNotFit) {
  const Session session = this->session();
  std::vector<float> x(6), y(6);
  const std::array<std::int64_t, 2> two = {2, 3}, one = {1, 3}, wrong = {3, 2}, column = {1, 2}, negative = {-2, 3};
  const NamedTensor in = named("x", x, DType::kFloat32, two), out = named("y", y, DType::kFloat32, two);
  NamedTensor strided = in, on_gpu = in, nowhere = in, crooked = named("x", x, DType::kFloat32, one);
  crooked.tensor.data = reinterpret_cast<char*>(x.data()) + 1;
  strided.tensor.strides = column;
  on_gpu.tensor.device.kind = Device::Kind::kCuda;
  nowhere.tensor.data = nullptr;
  struct Case {
    std::vector<NamedTensor> inputs, outputs;
    std::string words;
  };
  const std::vector<Case> cases = {
      {{}, {out}, "'x' is missing"},
      {{in, in}, {out}, "given twice"},
      {{in}, {out, out}, "given twice"},
      {{in}, {}, "at least one output"},
      {{named("z", x, DType::kFloat32, two)}, {out}, "no input 'z'; it has x"},
      {{in}, {named("z", x, DType::kFloat32, two)}, "no output 'z'"},
      {{named("x", x, DType::kInt64, two)}, {out}, "must be float32, got int64"},
      {{named("x", x, DType::kFloat32, wrong)}, {out}, "(batch, 3), got (3, 2)"},
      {{named("x", x, DType::kFloat32, std::span(two).first(1))}, {out}, "(batch, 3), got (2)"},
      {{named("x", x, DType::kFloat32, negative)}, {out}, "impossible"},
      {{in}, {named("y", y, DType::kFloat32, one)}, "(batch, 3), got (1, 3)"},
      {{strided}, {out}, "not dense"},
      {{on_gpu}, {out}, "CPU memory"},
      {{nowhere}, {out}, "no memory"},
      {{crooked}, {out}, "must start at a multiple of 4 bytes"},
  };
  for (const Case& wrong_call : cases) {
    const Status status = session.run(wrong_call.inputs, wrong_call.outputs);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << wrong_call.words;
    EXPECT_THAT(status.message(), HasSubstr(wrong_call.words));
    const Status unbound = session.bind(wrong_call.inputs, wrong_call.outputs).status();
    EXPECT_EQ(unbound.code(), Code::kInvalidArgument) << wrong_call.words;
    EXPECT_EQ(unbound.message(), status.message());
  }
}

// Sizes that no arithmetic holds, though another one is 0 and nothing would be read.
TEST_F(SessionTest, RefusesHugeSizesOfEmptyTensors) {
  const Result<Session> decoding = Session::open(write_counting_bundle(folder_), Part::kDecode, options_);
  ASSERT_TRUE(decoding.ok()) << decoding.status().message();
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  const std::array<std::int64_t, 2> empty = {0, kHuge}, strides = {kHuge, 1};
  const std::array<std::int64_t, 3> none = {0, 1, 4}, logits = {0, kHuge, 4};
  std::vector<std::int64_t> numbers(1);
  std::vector<float> state(1);
  NamedTensor tokens = named("tokens", numbers, DType::kInt64, empty);
  tokens.tensor.strides = strides;
  const std::vector<NamedTensor> inputs = {tokens, named("position", numbers, DType::kInt64, std::span(empty).first(1)),
                                           named("lengths", numbers, DType::kInt64, std::span(empty).first(1)),
                                           named("past.0.sum", state, DType::kFloat32, none)};
  const Status status = decoding->run(inputs, std::array{named("logits", state, DType::kFloat32, logits)});
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("impossible shape (0, 4611686018427387904)"));
}

TEST_F(SessionTest, SaysWhyNoBackendTakesIt) {
  options_.backends = {Backend::kOnnxRuntimeFused};
  options_.kernel_library = "/nonexistent/libhsm_onnxruntime.so";
  std::vector<std::string> log;
  options_.log = [&](LogLevel, std::string_view message) { log.emplace_back(message); };
  const Result<Session> none = Session::open(*bundle_, Part::kModel, options_);
  EXPECT_EQ(none.status().code(), Code::kNoBackend);
  EXPECT_THAT(none.status().message(), HasSubstr("onnxruntime-fused: the fused kernels are not there"));

  options_.backends = {Backend::kOnnxRuntimeFused, Backend::kOnnxRuntimeBodies};
  const Result<Session> next = Session::open(*bundle_, Part::kModel, options_);
  ASSERT_TRUE(next.ok()) << next.status().message();
  EXPECT_EQ(next->backend(), Backend::kOnnxRuntimeBodies);
  EXPECT_THAT(log.back(), HasSubstr("runs in onnxruntime-bodies"));

  options_.backends = {};
  EXPECT_THAT(Session::open(*bundle_, Part::kModel, options_).status().message(), HasSubstr("none was asked for"));
}

TEST_F(SessionTest, SaysWhatOnnxRuntimeIsMissing) {
  options_.onnxruntime_library = "/nonexistent/libonnxruntime.so";
  const Result<Session> session = Session::open(*bundle_, Part::kModel, options_);
  EXPECT_EQ(session.status().code(), Code::kNoBackend);
  EXPECT_THAT(session.status().message(), HasSubstr("ONNX Runtime cannot be loaded"));
  options_.onnxruntime_library = "libm.so.6";
  EXPECT_THAT(Session::open(*bundle_, Part::kModel, options_).status().message(), HasSubstr("no OrtGetApiBase"));
}

TEST_F(SessionTest, RefusesAPartThatIsNotThere) {
  const Result<Session> session = Session::open(*bundle_, Part::kDecode, options_);
  EXPECT_EQ(session.status().code(), Code::kInvalidArgument);
}

TEST_F(SessionTest, RunsTheGraphForCpusWhereThereIsOne) {
  auto files = good_files();
  files["model.cpu.onnx"] = files["model.onnx"];
  std::string& original = files["model.onnx"];
  original.replace(original.find("Add"), 3, "Adx");  // which no CPU computes
  std::string manifest = manifest_of(files);
  const std::string none = "\"cpu_file\": null";
  manifest.replace(manifest.find(none), none.size(), "\"cpu_file\": \"model.cpu.onnx\"");
  const std::filesystem::path path = folder_.path() / "variant.hsm";
  write_bundle(path, files, manifest);
  const Result<Bundle> bundle = Bundle::open(path.string());
  ASSERT_TRUE(bundle.ok()) << bundle.status().message();
  const Result<Session> session = Session::open(*bundle, Part::kModel, options_);
  EXPECT_TRUE(session.ok()) << session.status().message();
}

// Whatever runs the graph: numbers that it does not take are refused before it runs, and again in each bound run.
TEST_F(SessionTest, RefusesNumbersOutOfRange) {
  const std::string inputs =
      R"([{"name": "tokens", "low": 0, "high": 3}, {"name": "position", "low": 0, "high": null}])";
  const std::string path = write_counting_bundle(folder_, {}, {"", "", onnx_metadata("hsm_export.inputs", inputs)});
  const Result<Session> session = Session::open(*Bundle::open(path), Part::kDecode, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  std::vector<std::int64_t> ids = {1, 2}, position = {0}, lengths = {2};
  std::vector<float> past(4), present(4), logits(8);
  const std::array<std::int64_t, 2> one_row = {1, 2};
  const std::array<std::int64_t, 3> state = {1, 1, 4}, result = {1, 2, 4};
  const std::span<const std::int64_t> row(one_row.data(), 1);
  const std::array in = {named("tokens", ids, DType::kInt64, one_row), named("position", position, DType::kInt64, row),
                         named("lengths", lengths, DType::kInt64, row),
                         named("past.0.sum", past, DType::kFloat32, state)};
  const std::array out = {named("logits", logits, DType::kFloat32, result),
                          named("present.0.sum", present, DType::kFloat32, state)};
  Result<BoundRun> bound = session->bind(in, out);
  ASSERT_TRUE(bound.ok()) << bound.status().message();
  const auto expect = [&](const std::string& words) {
    for (const Status& status :
         {session->run(in, out), session->run(in).status(), bound->run(), session->run_async(in, out).status()}) {
      EXPECT_EQ(status.ok(), words.empty()) << status.message();
      if (words.empty()) continue;
      EXPECT_EQ(status.code(), Code::kInvalidArgument);
      EXPECT_THAT(status.message(), HasSubstr(words));
    }
  };
  expect("");
  ids[1] = -1;
  expect("'tokens'[0, 1] is -1, the model takes 0..3; pad with 0");
  ids[1] = 4;
  expect("'tokens'[0, 1] is 4");
  ids[1] = 3, position[0] = -1;
  expect("'position'[0] is -1, the model takes 0 and more");
  position[0] = 8;
  expect("row 0 would go from token 8 on by 2 tokens, but its state holds 9");
  position[0] = std::numeric_limits<std::int64_t>::max();
  expect("its state holds 9");
  position[0] = 7, lengths[0] = 3;
  expect("'lengths'[0] is 3, the model takes 0..2");
  lengths[0] = -1;
  expect("'lengths'[0] is -1");
  lengths[0] = 2;
  expect("");
}

TEST_F(SessionTest, ServesManyThreads) {
  const Session session = this->session();
  std::vector<std::thread> threads;
  std::array<int, 4> wrong = {};
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      const std::array<std::int64_t, 2> shape = {static_cast<std::int64_t>(t) + 1, 3};
      std::vector<float> x(3 * (t + 1), static_cast<float>(t)), y(x.size());
      for (int i = 0; i < 200; ++i) {
        std::fill(y.begin(), y.end(), -1.0f);
        const Status status = session.run(std::array{named("x", x, DType::kFloat32, shape)},
                                          std::array{named("y", y, DType::kFloat32, shape)});
        if (!status.ok() || y != std::vector<float>(x.size(), 2.0f * static_cast<float>(t))) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST_F(SessionTest, BoundRunsReadTheMemoryAnew) {
  std::optional<Session> session(this->session());
  std::vector<float> x(6), y(6);
  std::array<std::int64_t, 2> shape = {2, 3};
  std::string in = "x", out = "y";
  Result<BoundRun> made = session->bind(std::array{named(in, x, DType::kFloat32, shape)},
                                        std::array{named(out, y, DType::kFloat32, shape)});
  ASSERT_TRUE(made.ok()) << made.status().message();
  // Names and shapes may go, and so may the session; the bound run may move.
  shape = {7, 7}, in = "z", out = "z";
  session.reset();
  bundle_.reset();
  BoundRun run = *std::move(made);
  for (int turn = 0; turn < 3; ++turn) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - static_cast<float>(turn);
    const Status status = run.run();
    ASSERT_TRUE(status.ok()) << status.message();
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], 2 * x[i]);
  }
}

TEST_F(SessionTest, BoundRunsSayWhatWentWrong) {
  std::vector<float> x(6), y(6);
  const std::array<std::int64_t, 2> one = {1, 3}, two = {2, 3};
  const std::array in = {named("x", x, DType::kFloat32, one)};
  const Result<Session> session = Session::open(*Bundle::open(write_lying_bundle(folder_)), Part::kModel, options_);
  Result<BoundRun> run = session->bind(in, std::array{named("y", y, DType::kFloat32, two)});
  ASSERT_TRUE(run.ok()) << run.status().message();
  for (int turn = 0; turn < 2; ++turn) {
    const Status status = run->run();
    EXPECT_EQ(status.code(), Code::kRunFailed);
    EXPECT_THAT(status.message(), HasSubstr("ONNX Runtime cannot run the graph"));
  }
  const Status on_stream = session->bind(in, std::array{named("y", y, DType::kFloat32, one)}, {&x}).status();
  EXPECT_EQ(on_stream.code(), Code::kInvalidArgument);
  EXPECT_THAT(on_stream.message(), HasSubstr("takes no CUDA stream"));
}

TEST_F(SessionTest, BoundRunsOfOneSessionRunInThreadsOfTheirOwn) {
  const Session session = this->session();
  std::vector<std::thread> threads;
  std::array<int, 2> wrong = {};
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      const std::array<std::int64_t, 2> shape = {static_cast<std::int64_t>(t) + 1, 3};
      std::vector<float> x(3 * (t + 1)), y(x.size());
      Result<BoundRun> run = session.bind(std::array{named("x", x, DType::kFloat32, shape)},
                                          std::array{named("y", y, DType::kFloat32, shape)});
      for (int i = 0; i < 200; ++i) {
        std::fill(x.begin(), x.end(), static_cast<float>(i) + static_cast<float>(t));
        const bool good = run.ok() && run->run().ok() && y == std::vector<float>(x.size(), 2 * x[0]);
        if (!good) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

// Allocations of a few calls of `body`.
template <typename F>
long allocations_of(const F& body) {
  body();  // buffers that ONNX Runtime makes once
  const long before = allocations();
  for (int i = 0; i < 3; ++i) body();
  return allocations() - before;
}

// What the same run allocates when a program calls ONNX Runtime itself, with values that it made before.
long allocations_without_us(const std::string& library, const std::string& model, std::vector<float>& x,
                            std::vector<float>& y, std::span<const std::int64_t> shape) {
  const OrtApi& api = *runtime::ort::load(library, "", false).api;
  const auto check = [&](OrtStatus* status) { runtime::ort::require(api, status, Code::kRunFailed, "bare"); };
  OrtEnv* env = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  OrtValue *in = nullptr, *out = nullptr;
  check(api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bare", &env));
  check(api.CreateSessionOptions(&options));
  check(api.SetIntraOpNumThreads(options, 1));
  check(api.CreateSession(env, model.c_str(), options, &session));
  check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  const auto value = [&](std::vector<float>& data, OrtValue** made) {
    check(api.CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(float), shape.data(),
                                             shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, made));
  };
  value(x, &in);
  value(y, &out);
  const std::array<const char*, 1> in_names = {"x"}, out_names = {"y"};
  const long count =
      allocations_of([&] { check(api.Run(session, nullptr, in_names.data(), &in, 1, out_names.data(), 1, &out)); });
  api.ReleaseValue(in);
  api.ReleaseValue(out);
  api.ReleaseMemoryInfo(memory);
  api.ReleaseSession(session);
  api.ReleaseSessionOptions(options);
  api.ReleaseEnv(env);
  return count;
}

TEST_F(SessionTest, BoundRunsAllocateNothingOfTheirOwn) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer has its own operator new";
  const Session session = this->session();
  std::vector<float> x(6), y(6);
  const std::array<std::int64_t, 2> shape = {2, 3};
  const std::array in = {named("x", x, DType::kFloat32, shape)}, out = {named("y", y, DType::kFloat32, shape)};
  Result<BoundRun> run = session.bind(in, out);
  ASSERT_TRUE(run.ok()) << run.status().message();
  const long bound = allocations_of([&] { EXPECT_TRUE(run->run().ok()); });
  const long unbound = allocations_of([&] { EXPECT_TRUE(session.run(in, out).ok()); });
  const std::string model = bundle_->path() + "/model.onnx";
  EXPECT_EQ(bound, allocations_without_us(options_.onnxruntime_library, model, x, y, shape));
  EXPECT_GT(unbound, bound);  // so what the library allocates is seen
}

// Decoding with two sets of states that change roles, as a generator does.
TEST_F(SessionTest, BoundStepsComputeWhatAGeneratorDoes) {
  const Result<Bundle> bundle = Bundle::open(write_counting_bundle(folder_));
  const Result<Session> session = Session::open(*bundle, Part::kDecode, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  std::vector<std::int64_t> token(1), position(1), length = {1};
  std::vector<float> logits(4);
  std::array<std::vector<float>, 2> states = {std::vector<float>(4), std::vector<float>(4)};
  const std::array<std::int64_t, 3> state_shape = {1, 1, 4};
  const std::array<std::int64_t, 2> call = {1, 1};
  const std::span<const std::int64_t> row(call.data(), 1);
  std::vector<BoundRun> steps;
  for (const std::size_t from : {0, 1}) {
    Result<BoundRun> step = session->bind(
        std::array{named("tokens", token, DType::kInt64, call), named("position", position, DType::kInt64, row),
                   named("lengths", length, DType::kInt64, row),
                   named("past.0.sum", states[from], DType::kFloat32, state_shape)},
        std::array{named("logits", logits, DType::kFloat32, state_shape),
                   named("present.0.sum", states[1 - from], DType::kFloat32, state_shape)});
    ASSERT_TRUE(step.ok()) << step.status().message();
    steps.push_back(*std::move(step));
  }
  Result<Generator> generator = Generator::create(*session);
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const std::int64_t next : {1, 3, 1, 0, 2}) {
    token[0] = next;
    ASSERT_TRUE(steps[static_cast<std::size_t>(position[0] % 2)].run().ok());
    ++position[0];
    ASSERT_TRUE(generator->step(token).ok());
    EXPECT_THAT(logits, ::testing::ElementsAreArray(generator->logits(0)));
  }
}

}  // namespace
}  // namespace hsm::testing
