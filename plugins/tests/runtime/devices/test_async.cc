// Runs on the CPU that the caller does not wait for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "tests/runtime/onnxruntime_test.h"

namespace hsm::testing {
namespace {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test
using ::testing::Each;
using ::testing::HasSubstr;

class AsyncTest : public DoublingTest {};

TEST_F(AsyncTest, GoesOnInAThreadInOrder) {
  std::optional<Session> session(*Session::open(*bundle_, Part::kModel, options_));
  std::vector<std::vector<float>> x, y;
  for (int i = 0; i < 8; ++i) {
    x.emplace_back(3 * (i + 1), static_cast<float>(i));
    y.emplace_back(x.back().size(), -1.0f);
  }
  std::vector<PendingRun> runs;
  for (std::size_t i = 0; i < x.size(); ++i) {
    // Names and shapes may go once the run is started.
    std::array<std::int64_t, 2> shape = {static_cast<std::int64_t>(i) + 1, 3};
    std::string name = "x";
    Result<PendingRun> run = session->run_async(std::array{NamedTensor{name, {x[i].data(), DType::kFloat32, shape}}},
                                                std::array{NamedTensor{"y", {y[i].data(), DType::kFloat32, shape}}});
    ASSERT_TRUE(run.ok()) << run.status().message();
    runs.push_back(*std::move(run));
    shape = {7, 7}, name = "z";
  }
  session.reset();
  EXPECT_TRUE(runs.back().wait().ok());
  EXPECT_TRUE(runs.front().done());
  EXPECT_TRUE(runs.front().wait().ok());
  runs.clear();
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_THAT(y[i], Each(2.0f * static_cast<float>(i)));
}

TEST_F(AsyncTest, ReportsTheFailureOfTheRun) {
  const Session session = *Session::open(*Bundle::open(write_lying_bundle(folder_)), Part::kModel, options_);
  const std::array<std::int64_t, 2> one = {1, 3}, two = {2, 3};
  std::array<float, 6> x = {}, y = {};
  Result<PendingRun> run = session.run_async(std::array{NamedTensor{"x", {x.data(), DType::kFloat32, one}}},
                                             std::array{NamedTensor{"y", {y.data(), DType::kFloat32, two}}});
  ASSERT_TRUE(run.ok()) << run.status().message();
  const Status status = run->wait();
  EXPECT_EQ(status.code(), Code::kRunFailed);
  EXPECT_THAT(status.message(), HasSubstr("ONNX Runtime cannot run the graph"));
  EXPECT_EQ(run->wait().message(), status.message());
}

TEST_F(AsyncTest, RefusesBeforeAnythingStarts) {
  const Session session = *Session::open(*bundle_, Part::kModel, options_);
  const std::array<std::int64_t, 2> shape = {1, 3};
  std::array<float, 3> x = {}, y = {};
  const std::array in = {NamedTensor{"x", {x.data(), DType::kFloat32, shape}}};
  const std::array out = {NamedTensor{"y", {y.data(), DType::kFloat32, shape}}};
  EXPECT_EQ(session.run_async(in, {}).status().code(), Code::kInvalidArgument);
  const Status status = session.run_async(in, out, {&x}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("takes no CUDA stream"));
  std::array on_gpu = in;
  on_gpu[0].tensor.device.kind = Device::Kind::kCuda;
  EXPECT_THAT(session.run_async(on_gpu, out).status().message(), HasSubstr("not in CPU memory"));
}

}  // namespace
}  // namespace hsm::testing
