// TensorRT or TensorRT-RTX as the machine has it, and what it says while it works.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/error.h"
#include "runtime/tensorrt/backend.h"
#include "runtime/tensorrt/objects.h"

namespace hsm::runtime::trt {

struct Nvinfer {
  std::int32_t version = 0;
  Layout layout = Layout::kUnknown;
  void* (*create_runtime)(void* logger, std::int32_t version) = nullptr;
  void* logger = nullptr;
};

// Loads the first library that is there; it stays loaded. Throws Error(kNoBackend).
Nvinfer load_nvinfer(std::span<const char* const> names);

// Lets a runtime load a library of plugins; null when it cannot.
void* load_plugins(Layout layout, nvinfer1::IRuntime& runtime, const char* library);

struct LogSink {
  LogFunction log = nullptr;
  void* user = nullptr;
};

// While it lives, what TensorRT says in this thread goes to a sink. TensorRT keeps the first logger that a process
// gives it, so there is one for all, and it must know whose call it is in; what other threads of TensorRT's say is
// dropped.
class LogScope {
 public:
  explicit LogScope(const LogSink& sink);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

  // Fails with `what` and the first error that TensorRT reported in this scope.
  [[noreturn]] void fail(Code code, const std::string& what) const;
  void report(nvinfer1::ILogger::Severity severity, const char* message) noexcept;

 private:
  const LogSink& sink_;
  LogScope* outer_;
  std::string first_error_;
};

}  // namespace hsm::runtime::trt
