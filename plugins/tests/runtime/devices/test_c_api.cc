// The C interface to GPUs, streams and runs that nobody waits for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "hsm_runtime.h"
#include "tests/runtime/devices/engine_bundle.h"

namespace hsm::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_gpu().reset();
    ASSERT_EQ(hsmrt_bundle_open(write_engine_bundle(folder_, {FakeEngine()}).c_str(), 1, &bundle_, &error_), HSMRT_OK)
        << error_.message;
    set("backends", "tensorrt");
    set("tensorrt_backend", backend_library());
    set("nvinfer_library", fake_gpu_library());
    set("cudart_library", fake_gpu_library());
    set("device", "0");
    set("allow_embedded_plugins", "0");
    ASSERT_EQ(hsmrt_session_open(bundle_, HSMRT_MODEL, options_, &session_, &error_), HSMRT_OK) << error_.message;
  }
  void TearDown() override {
    hsmrt_session_close(session_);
    hsmrt_options_close(options_);
    hsmrt_bundle_close(bundle_);
    expect_clean();
  }

  void set(const char* name, const std::string& value) {
    ASSERT_EQ(hsmrt_options_set(options_, name, value.c_str(), &error_), HSMRT_OK) << error_.message;
  }

  TemporaryFolder folder_;
  hsmrt_error error_ = {};
  hsmrt_bundle* bundle_ = nullptr;
  hsmrt_options* options_ = hsmrt_options_create();
  hsmrt_session* session_ = nullptr;
  std::array<std::int64_t, 2> shape_ = {1, 3};
  std::array<float, 3> x_ = {1, 2, 3}, y_ = {};
  hsmrt_tensor in_ = {"x", x_.data(), HSMRT_FLOAT32, HSMRT_CPU, 0, 2, shape_.data(), nullptr};
  hsmrt_tensor out_ = {"y", y_.data(), HSMRT_FLOAT32, HSMRT_CPU, 0, 2, shape_.data(), nullptr};
};

TEST_F(CDeviceTest, RunsAndStarts) {
  EXPECT_STREQ(hsmrt_session_backend(session_), "tensorrt");
  EXPECT_EQ(hsmrt_session_run(session_, &in_, 1, &out_, 1, &error_), HSMRT_OK) << error_.message;
  EXPECT_THAT(y_, ElementsAre(2, 4, 6));

  y_.fill(0);
  const hsmrt_run_options options = {sizeof options, nullptr};
  hsmrt_run* run = nullptr;
  ASSERT_EQ(hsmrt_session_start(session_, &in_, 1, &out_, 1, &options, &run, &error_), HSMRT_OK) << error_.message;
  hsmrt_session_close(session_);
  session_ = nullptr;
  EXPECT_EQ(hsmrt_run_done(run), 0);
  EXPECT_EQ(hsmrt_run_wait(run, &error_), HSMRT_OK) << error_.message;
  EXPECT_EQ(hsmrt_run_done(run), 1);
  EXPECT_EQ(hsmrt_run_wait(run, &error_), HSMRT_OK);
  hsmrt_run_close(run);
  EXPECT_THAT(y_, ElementsAre(2, 4, 6));
}

TEST_F(CDeviceTest, BindsOnce) {
  hsmrt_bound* bound = nullptr;
  ASSERT_EQ(hsmrt_session_bind(session_, &in_, 1, &out_, 1, nullptr, &bound, &error_), HSMRT_OK) << error_.message;
  hsmrt_session_close(session_);
  session_ = nullptr;
  for (const float first : {5.0f, -1.0f}) {
    x_[0] = first;
    EXPECT_EQ(hsmrt_bound_run(bound, &error_), HSMRT_OK) << error_.message;
    EXPECT_THAT(y_, ElementsAre(2 * first, 4, 6));
  }
  hsmrt_bound_close(bound);
}

TEST_F(CDeviceTest, RefusesWhatCannotBe) {
  const hsmrt_run_options small = {4, nullptr};
  EXPECT_EQ(hsmrt_session_run_with(session_, &in_, 1, &out_, 1, &small, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("is not that of one"));
  in_.device = 7;
  EXPECT_EQ(hsmrt_session_run(session_, &in_, 1, &out_, 1, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("no known kind"));
  in_.device = HSMRT_CUDA, in_.device_index = 3;
  EXPECT_EQ(hsmrt_session_run(session_, &in_, 1, &out_, 1, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("GPU 3"));
  EXPECT_EQ(hsmrt_session_start(session_, &in_, 1, &out_, 1, nullptr, nullptr, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_session_start(nullptr, &in_, 1, &out_, 1, nullptr, nullptr, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_run_wait(nullptr, &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_run_done(nullptr), 0);
  hsmrt_run_close(nullptr);
  EXPECT_EQ(hsmrt_options_set(options_, "allow_embedded_plugins", "2", &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_options_set(options_, "device", "-1", &error_), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("device must be a whole number"));
}

}  // namespace
}  // namespace hsm::testing
