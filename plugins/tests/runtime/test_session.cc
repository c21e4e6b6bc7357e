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

#include "hsm_runtime/session.h"
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
  NamedTensor strided = in, on_gpu = in, nowhere = in;
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
  };
  for (const Case& wrong_call : cases) {
    const Status status = session.run(wrong_call.inputs, wrong_call.outputs);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << wrong_call.words;
    EXPECT_THAT(status.message(), HasSubstr(wrong_call.words));
  }
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
  files["model.onnx"] = "in types that no CPU computes in";
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

}  // namespace
}  // namespace hsm::testing
