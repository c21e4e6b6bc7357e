// The C interface of generators, used by a program in C.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdlib>

#include "hsm_runtime/generator.h"
#include "runtime/c_api.h"
#include "tests/runtime/allocations.h"
#include "tests/runtime/bundle_writer.h"
#include "tests/runtime/c_generator.h"

namespace hsm::testing {
namespace {

class CGenerator : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* library = std::getenv("HSM_TEST_ONNXRUNTIME");
    if (library == nullptr) GTEST_SKIP() << "HSM_TEST_ONNXRUNTIME names no libonnxruntime.so";
    hsmrt_bundle* bundle = nullptr;
    hsmrt_error error = {};
    ASSERT_EQ(hsmrt_bundle_open(write_counting_bundle(folder_).c_str(), 1, &bundle, &error), HSMRT_OK) << error.message;
    hsmrt_options* options = hsmrt_options_create();
    hsmrt_options_set(options, "onnxruntime_library", library, nullptr);
    hsmrt_options_set(options, "backends", "onnxruntime-bodies", nullptr);
    hsmrt_options_set(options, "threads", "1", nullptr);
    EXPECT_EQ(hsmrt_session_open(bundle, HSMRT_DECODE, options, &session_, &error), HSMRT_OK) << error.message;
    hsmrt_options_close(options);
    hsmrt_bundle_close(bundle);
  }
  void TearDown() override { hsmrt_session_close(session_); }

  TemporaryFolder folder_;
  hsmrt_session* session_ = nullptr;
};

// Each function in C returns NULL, or what failed.
void expect_passed(const char* failed) { EXPECT_EQ(failed, nullptr) << failed; }

TEST_F(CGenerator, Generates) {
  expect_passed(c_generator_generates(session_, (folder_.path() / "state.safetensors").c_str()));
}

TEST_F(CGenerator, MovesRows) {
  expect_passed(c_generator_moves_rows(session_, (folder_.path() / "row.safetensors").c_str()));
}

TEST_F(CGenerator, RefusesWhatDoesNotFit) { expect_passed(c_generator_refuses(session_)); }

TEST(CGeneratorWithoutASession, TakesNullEverywhere) { expect_passed(c_generator_takes_null()); }

TEST_F(CGenerator, OutlivesItsSession) {
  hsmrt_generator* generator = nullptr;
  ASSERT_EQ(hsmrt_generator_create(session_, 1, 0, &generator, nullptr), HSMRT_OK);
  hsmrt_session_close(session_);
  session_ = nullptr;
  expect_passed(c_generator_steps(generator));
  hsmrt_generator_close(generator);
}

// As many as in the C++ interface, whose steps test_generator.cc compares with ONNX Runtime's own.
TEST_F(CGenerator, StepsAllocateNothingOfTheirOwn) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer has its own operator new";
  const auto count = [](const auto& step) {
    step();  // buffers that ONNX Runtime makes once
    const long before = allocations();
    for (int i = 0; i < 3; ++i) step();
    return allocations() - before;
  };
  hsmrt_generator* generator = nullptr;
  ASSERT_EQ(hsmrt_generator_create(session_, 1, 0, &generator, nullptr), HSMRT_OK);
  const long in_c = count([&] { expect_passed(c_generator_steps(generator)); });
  hsmrt_generator_close(generator);

  auto twin = hsm_runtime::Generator::create(session_->session);
  const std::array<std::int64_t, 1> token = {1};
  const long in_cpp = count([&] {
    if (!twin->step(token).ok() || !twin->sample(0, {.temperature = 1}, 0.5).ok()) std::abort();
  });
  EXPECT_EQ(in_c, in_cpp);
}

}  // namespace
}  // namespace hsm::testing
