// libhsm_onnxruntime.so inside the real ONNX Runtime: a fixture for the tests of the adapter and of single operators.
//
// HSM_TEST_ONNXRUNTIME names the libonnxruntime.so to run in; the tests skip without it.
#pragma once

#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include <string>
#include <vector>

#include "tests/sample.h"
#include "tests/testing.h"

namespace hsm::testing {

// ONNX Runtime drops the status of a failed shape inference without releasing it. It is not ours to report.
struct DroppedStatus {
#if defined(__SANITIZE_ADDRESS__)
  __lsan::ScopedDisabler disabler;
#endif
};

// A tensor in a buffer's memory.
Ort::Value tensor(Buffer& buffer, const opset::Shape& shape);

class Library : public ::testing::Test {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();

  void SetUp() override {
    if (env() == nullptr) GTEST_SKIP() << "HSM_TEST_ONNXRUNTIME does not name a libonnxruntime.so to run in";
  }

  static Ort::Env* env();
  // `settings` are entries of the session's configuration.
  static Ort::SessionOptions with_library(const std::vector<std::pair<std::string, std::string>>& settings = {});
  static Ort::Session load(const std::string& model) {
    return Ort::Session(*env(), model.data(), model.size(), with_library());
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
};

}  // namespace hsm::testing
