// Tests of sessions in a real ONNX Runtime, which HSM_TEST_ONNXRUNTIME names; without it they skip.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "hsm_runtime/session.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::testing {

class OnnxRuntimeTest : public ::testing::Test {
 protected:
  OnnxRuntimeTest() {
    options_.backends = {hsm_runtime::Backend::kOnnxRuntimeBodies};
    options_.threads = 1;
  }

  void SetUp() override {
    const char* library = std::getenv("HSM_TEST_ONNXRUNTIME");
    if (library == nullptr) GTEST_SKIP() << "HSM_TEST_ONNXRUNTIME names no libonnxruntime.so";
    options_.onnxruntime_library = library;
  }

  TemporaryFolder folder_;
  hsm_runtime::SessionOptions options_;
};

// With a bundle of the model that doubles its input.
class DoublingTest : public OnnxRuntimeTest {
 protected:
  void SetUp() override {
    OnnxRuntimeTest::SetUp();
    if (!IsSkipped()) bundle_.emplace(*hsm_runtime::Bundle::open(write_good_bundle(folder_)));
  }

  std::optional<hsm_runtime::Bundle> bundle_;
};

}  // namespace hsm::testing
