// A logger of TensorRT's that remembers what it is told.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

#include "tensorrt/logging.h"

namespace hsm::testing {

inline constexpr tensorrt::Layout kLayoutOfTheHeaders =
    NV_TENSORRT_MAJOR >= 11 ? tensorrt::Layout::kTensorRt11 : tensorrt::Layout::kTensorRt10;

// While it lives, the plugins log to it.
class Recorder : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  Recorder() { tensorrt::set_logger_finder(static_cast<nvinfer1::ILoggerFinder*>(this), kLayoutOfTheHeaders); }
  ~Recorder() override { tensorrt::set_logger_finder(nullptr, tensorrt::Layout::kUnknown); }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  nvinfer1::ILogger* findLogger() override { return this; }
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) messages.emplace_back(message);
  }
  // What was logged since the last call.
  std::vector<std::string> take() { return std::exchange(messages, {}); }

  std::vector<std::string> messages;
};

}  // namespace hsm::testing
