// ONNX Runtime's CUDA provider: why it is not there, and, played on the CPU, what it is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "hsm_runtime/generator.h"
#include "hsm_runtime/session.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::HasSubstr;

class CudaProviderTest : public DoublingTest {
 protected:
  CudaProviderTest() { options_.backends = {Backend::kOnnxRuntimeCuda}; }
};

TEST_F(CudaProviderTest, SaysWhyItIsNotThere) {
  const Result<Session> none = Session::open(*bundle_, Part::kModel, options_);
  EXPECT_EQ(none.status().code(), Code::kNoBackend);
  EXPECT_THAT(none.status().message(), HasSubstr("onnxruntime-cuda: this ONNX Runtime runs nothing on a GPU: "));

  options_.cuda_kernel_library = "/nonexistent.so";
  const Result<Session> no_kernels = Session::open(*bundle_, Part::kModel, options_);
  EXPECT_THAT(no_kernels.status().message(), HasSubstr("the fused kernels are not there: /nonexistent.so"));
}

TEST_F(CudaProviderTest, IsPassedOverByDefault) {
  SessionOptions options;
  options.onnxruntime_library = options_.onnxruntime_library;
  const Result<Session> session = Session::open(*bundle_, Part::kModel, options);
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_TRUE(session->backend() == Backend::kOnnxRuntimeFused || session->backend() == Backend::kOnnxRuntimeBodies);
}

TEST_F(CudaProviderTest, BindsTensorsOfTheGpu) {
  options_.onnxruntime_library = HSM_TEST_CUDA_PROVIDER;
  options_.device = 1;
  const Result<Session> session = Session::open(*bundle_, Part::kModel, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_EQ(session->backend(), Backend::kOnnxRuntimeCuda);
  const std::array<std::int64_t, 2> shape = {1, 3};
  const Device gpu = {Device::Kind::kCuda, 1};
  alignas(256) std::array<float, 3> x = {1, 2, 3}, y = {};
  const std::array in = {NamedTensor{"x", {x.data(), DType::kFloat32, shape, {}, gpu}}};
  const std::array out = {NamedTensor{"y", {y.data(), DType::kFloat32, shape, {}, gpu}}};
  const Status status = session->run(in, out);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_THAT(y, ::testing::ElementsAre(2, 4, 6));
  EXPECT_STREQ(std::getenv("HSM_TEST_CUDA_TENSORS"), "Cuda:1 device_id=1");

  const Status on_stream = session->run(in, out, {&x});
  EXPECT_EQ(on_stream.code(), Code::kInvalidArgument);
  EXPECT_THAT(on_stream.message(), HasSubstr("streams of its own"));
}

TEST_F(CudaProviderTest, CopiesTensorsOfTheCpuInEachBoundRun) {
  options_.onnxruntime_library = HSM_TEST_CUDA_PROVIDER;
  const Result<Session> session = Session::open(*bundle_, Part::kModel, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  const std::array<std::int64_t, 2> shape = {1, 3};
  std::array<float, 3> x = {}, y = {};
  Result<BoundRun> run = session->bind(std::array{NamedTensor{"x", {x.data(), DType::kFloat32, shape}}},
                                       std::array{NamedTensor{"y", {y.data(), DType::kFloat32, shape}}});
  ASSERT_TRUE(run.ok()) << run.status().message();
  for (const float value : {1.0f, 5.0f}) {
    x.fill(value);
    const Status status = run->run();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_THAT(y, ::testing::Each(2 * value));
  }
}

TEST_F(CudaProviderTest, StepsReadTheirTokens) {
  options_.onnxruntime_library = HSM_TEST_CUDA_PROVIDER;
  const Result<Session> session = Session::open(*Bundle::open(write_counting_bundle(folder_)), Part::kDecode, options_);
  ASSERT_TRUE(session.ok()) << session.status().message();
  Result<Generator> generator = Generator::create(*session);
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const std::int64_t token : {2, 3}) ASSERT_TRUE(generator->step(std::array{token}).ok());
  EXPECT_THAT(generator->logits(0), ::testing::ElementsAre(0, 0, 1, 2));
}

}  // namespace
}  // namespace hsm::testing
