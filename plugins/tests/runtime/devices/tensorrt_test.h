// Tests of sessions in the real TensorRT back end, on a GPU that the tests play.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_runtime/session.h"
#include "tests/runtime/devices/engine_bundle.h"

namespace hsm::testing {

using namespace hsm_runtime;  // NOLINT: the whole public interface is under test

using Shape = std::array<std::int64_t, 2>;

constexpr Shape kOneRow = {1, 3}, kTwoRows = {2, 3};
inline const std::vector<FakeEngine> kOneEngine = {FakeEngine()};

// Memory of the fake device, or a stream there.
class OnGpu {
 public:
  explicit OnGpu(std::size_t bytes) {
    data_ = std::aligned_alloc(256, (bytes + 511) / 256 * 256);
    const std::lock_guard lock(fake_gpu().mutex);
    fake_gpu().memory[data_] = bytes + 256;
  }
  ~OnGpu() {
    fake_gpu().memory.erase(data_);
    std::free(data_);
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  float* floats() const { return static_cast<float*>(data_); }

 private:
  void* data_;
};

class TensorRtTest : public ::testing::Test {
 protected:
  void SetUp() override { fake_gpu().reset(); }
  void TearDown() override { expect_clean(); }

  Result<Session> open(const std::vector<FakeEngine>& engines = kOneEngine) {
    const Result<Bundle> bundle = Bundle::open(write_engine_bundle(folder_, engines));
    EXPECT_TRUE(bundle.ok()) << bundle.status().message();
    return Session::open(*bundle, Part::kModel, options_);
  }

  void expect_none(const std::vector<FakeEngine>& engines, const std::string& words) {
    const Result<Session> session = open(engines);
    EXPECT_EQ(session.status().code(), Code::kNoBackend) << words;
    EXPECT_THAT(session.status().message(), ::testing::HasSubstr(words));
    expect_clean();
  }

  TemporaryFolder folder_;
  SessionOptions options_ = fake_options();
};

inline NamedTensor named(std::string_view name, float* data, const Shape& shape, Device device = {}) {
  return {name, {data, DType::kFloat32, shape, {}, device}};
}

constexpr Device kGpu = {Device::Kind::kCuda, 0};

inline void expect_doubled(const Session& session, std::int64_t batch) {
  const Shape shape = {batch, 3};
  std::vector<float> x(static_cast<std::size_t>(3 * batch)), y(x.size(), -1);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) + 0.5f;
  const Status status = session.run(std::array{named("x", x.data(), shape)}, std::array{named("y", y.data(), shape)});
  ASSERT_TRUE(status.ok()) << status.message();
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], 2 * x[i]);
}

}  // namespace hsm::testing
