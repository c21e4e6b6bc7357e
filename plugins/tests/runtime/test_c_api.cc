// The C interface: the same numbers, codes and words, and NULL wherever a caller can forget something.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "hsm_runtime.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::testing {
namespace {

using ::testing::HasSubstr;

TEST(CApi, ReportsABadBundle) {
  hsmrt_error error = {};
  hsmrt_bundle* bundle = nullptr;
  EXPECT_EQ(hsmrt_bundle_open("/nonexistent.hsm", 1, &bundle, &error), HSMRT_BAD_BUNDLE);
  EXPECT_EQ(bundle, nullptr);
  EXPECT_THAT(error.message, HasSubstr("not a folder"));
  EXPECT_EQ(hsmrt_bundle_open("/nonexistent.hsm", 1, &bundle, nullptr), HSMRT_BAD_BUNDLE);
  hsmrt_options* options = hsmrt_options_create();
  EXPECT_EQ(hsmrt_options_set(options, std::string(5000, 'x').c_str(), "", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(error.message).size(), sizeof error.message - 1);
  hsmrt_options_close(options);
}

TEST(CApi, TakesNullEverywhere) {
  hsmrt_error error = {};
  EXPECT_EQ(hsmrt_bundle_open(nullptr, 1, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_session_open(nullptr, 0, nullptr, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_session_run(nullptr, nullptr, 1, nullptr, 1, &error), HSMRT_INVALID_ARGUMENT);
  hsmrt_bound* bound = nullptr;
  EXPECT_EQ(hsmrt_session_bind(nullptr, nullptr, 1, nullptr, 1, nullptr, &bound, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(bound, nullptr);
  EXPECT_EQ(hsmrt_bound_run(nullptr, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("the bound run is NULL"));
  hsmrt_bound_close(nullptr);
  EXPECT_EQ(hsmrt_options_set(nullptr, "threads", "1", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_bundle_task(nullptr), nullptr);
  EXPECT_EQ(hsmrt_bundle_precision(nullptr), nullptr);
  EXPECT_EQ(hsmrt_bundle_has(nullptr, 0), 0);
  EXPECT_EQ(hsmrt_session_backend(nullptr), nullptr);
  EXPECT_EQ(hsmrt_session_count(nullptr, HSMRT_INPUT), 0u);
  EXPECT_EQ(hsmrt_session_name(nullptr, HSMRT_INPUT, 0), nullptr);
  EXPECT_EQ(hsmrt_session_size(nullptr, HSMRT_INPUT, 0, 0), 0);
  hsmrt_options_set_log(nullptr, nullptr, nullptr);
  hsmrt_bundle_close(nullptr);
  hsmrt_options_close(nullptr);
  hsmrt_session_close(nullptr);
}

TEST(CApi, RefusesUnknownOptions) {
  hsmrt_error error = {};
  hsmrt_options* options = hsmrt_options_create();
  EXPECT_EQ(hsmrt_options_set(options, "colour", "red", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("no option 'colour'"));
  EXPECT_EQ(hsmrt_options_set(options, "threads", "two", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_options_set(options, "threads", "-1", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(hsmrt_options_set(options, "backends", "onnxruntime-bodies,abacus", &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("no back end 'abacus'"));
  EXPECT_EQ(hsmrt_options_set(options, "backends", "onnxruntime-fused,onnxruntime-bodies", &error), HSMRT_OK);
  EXPECT_EQ(hsmrt_options_set(options, "operator_libraries", "/opt/acme:/opt/other", &error), HSMRT_OK);
  hsmrt_options_close(options);
}

TEST(CApi, RunsAndBindsAModel) {
  const char* library = std::getenv("HSM_TEST_ONNXRUNTIME");
  if (library == nullptr) GTEST_SKIP() << "HSM_TEST_ONNXRUNTIME names no libonnxruntime.so";
  const TemporaryFolder folder;
  hsmrt_error error = {};
  hsmrt_bundle* bundle = nullptr;
  ASSERT_EQ(hsmrt_bundle_open(write_good_bundle(folder).c_str(), 1, &bundle, &error), HSMRT_OK) << error.message;
  EXPECT_STREQ(hsmrt_bundle_precision(bundle), "fp32");
  EXPECT_EQ(hsmrt_bundle_has(bundle, HSMRT_MODEL), 1);
  EXPECT_EQ(hsmrt_bundle_has(bundle, HSMRT_DECODE), 0);
  EXPECT_EQ(hsmrt_bundle_has(bundle, 7), 0);

  std::string log;
  hsmrt_options* options = hsmrt_options_create();
  hsmrt_options_set(options, "onnxruntime_library", library, nullptr);
  hsmrt_options_set(options, "backends", "onnxruntime-bodies", nullptr);
  hsmrt_options_set(options, "threads", "1", nullptr);
  hsmrt_options_set_log(
      options, [](void* user, std::int32_t, const char* text) { *static_cast<std::string*>(user) += text; }, &log);
  hsmrt_session* session = nullptr;
  EXPECT_EQ(hsmrt_session_open(bundle, 5, options, &session, &error), HSMRT_INVALID_ARGUMENT);
  ASSERT_EQ(hsmrt_session_open(bundle, HSMRT_MODEL, options, &session, &error), HSMRT_OK) << error.message;
  hsmrt_options_close(options);
  hsmrt_bundle_close(bundle);
  EXPECT_THAT(log, HasSubstr("runs in onnxruntime-bodies"));
  EXPECT_STREQ(hsmrt_session_backend(session), "onnxruntime-bodies");
  ASSERT_EQ(hsmrt_session_count(session, HSMRT_INPUT), 1u);
  EXPECT_STREQ(hsmrt_session_name(session, HSMRT_INPUT, 0), "x");
  EXPECT_EQ(hsmrt_session_dtype(session, HSMRT_OUTPUT, 0), HSMRT_FLOAT32);
  EXPECT_EQ(hsmrt_session_rank(session, HSMRT_INPUT, 0), 2u);
  EXPECT_EQ(hsmrt_session_size(session, HSMRT_INPUT, 0, 0), -1);
  EXPECT_STREQ(hsmrt_session_dimension(session, HSMRT_INPUT, 0, 0), "batch");
  EXPECT_EQ(hsmrt_session_size(session, HSMRT_INPUT, 0, 1), 3);
  EXPECT_EQ(hsmrt_session_dimension(session, HSMRT_INPUT, 0, 1), nullptr);

  std::array<float, 3> x = {1, 2, 3}, y = {};
  const std::array<std::int64_t, 2> shape = {1, 3};
  hsmrt_tensor in = {"x", x.data(), HSMRT_FLOAT32, HSMRT_CPU, 0, 2, shape.data(), nullptr};
  hsmrt_tensor out = {"y", y.data(), HSMRT_FLOAT32, HSMRT_CPU, 0, 2, shape.data(), nullptr};
  EXPECT_EQ(hsmrt_session_run(session, &in, 1, &out, 1, &error), HSMRT_OK) << error.message;
  EXPECT_THAT(y, ::testing::ElementsAre(2, 4, 6));
  EXPECT_EQ(hsmrt_session_run(session, nullptr, 1, &out, 1, &error), HSMRT_INVALID_ARGUMENT);
  in.name = nullptr;
  EXPECT_EQ(hsmrt_session_run(session, &in, 1, &out, 1, &error), HSMRT_INVALID_ARGUMENT);
  in.name = "x", in.shape = nullptr;
  EXPECT_EQ(hsmrt_session_run(session, &in, 1, &out, 1, &error), HSMRT_INVALID_ARGUMENT);
  in.shape = shape.data(), in.dtype = 99;
  EXPECT_EQ(hsmrt_session_run(session, &in, 1, &out, 1, &error), HSMRT_INVALID_ARGUMENT);

  hsmrt_bound* bound = nullptr;
  EXPECT_EQ(hsmrt_session_bind(session, &in, 1, &out, 1, nullptr, &bound, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_EQ(bound, nullptr);
  in.dtype = HSMRT_FLOAT32;
  EXPECT_EQ(hsmrt_session_bind(session, &in, 1, &out, 1, nullptr, nullptr, &error), HSMRT_INVALID_ARGUMENT);
  const hsmrt_run_options on_stream = {sizeof on_stream, &bound};
  EXPECT_EQ(hsmrt_session_bind(session, &in, 1, &out, 1, &on_stream, &bound, &error), HSMRT_INVALID_ARGUMENT);
  EXPECT_THAT(error.message, HasSubstr("takes no CUDA stream"));
  ASSERT_EQ(hsmrt_session_bind(session, &in, 1, &out, 1, nullptr, &bound, &error), HSMRT_OK) << error.message;
  hsmrt_session_close(session);
  in = out = {};
  for (const float first : {5.0f, -1.0f}) {
    x[0] = first;
    EXPECT_EQ(hsmrt_bound_run(bound, &error), HSMRT_OK) << error.message;
    EXPECT_THAT(y, ::testing::ElementsAre(2 * first, 4, 6));
  }
  hsmrt_bound_close(bound);
}

}  // namespace
}  // namespace hsm::testing
