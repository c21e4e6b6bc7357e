#include "runtime/tensorrt/nvinfer.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

namespace hsm::runtime::trt {
namespace {

thread_local LogScope* current_scope = nullptr;

using Severity = nvinfer1::ILogger::Severity;

void report(Severity severity, const char* message) noexcept {
  if (current_scope != nullptr && message != nullptr) current_scope->report(severity, message);
}

class Logger10 final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override { report(severity, message); }
};

// TensorRT 11 put a versioned base class under ILogger.
class Logger11 final : public nvinfer1::IVersionedInterface {
 public:
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  virtual void log(Severity severity, const char* message) noexcept { report(severity, message); }
};

// Never destroyed: TensorRT keeps the pointer until the process ends.
void* logger_for(Layout layout) {
  static auto* const logger10 = new Logger10;
  static auto* const logger11 = new Logger11;
  return layout == Layout::kTensorRt10 ? static_cast<void*>(logger10) : static_cast<void*>(logger11);
}

void* open_first(std::span<const char* const> names) {
  std::string reasons;
  for (const char* name : names) {
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return handle;
    const char* reason = dlerror();
    reasons += (reasons.empty() ? "" : "; ") + std::string(reason == nullptr ? name : reason);
  }
  fail(Code::kNoBackend,
       "TensorRT cannot be loaded (" + reasons + "); install it, or name its library in the option nvinfer_library");
}

// Registries have no implementation apart; tensorrt/abi.h describes those of both versions.
template <typename Registry>
HSM_FOREIGN_CLASS void* load_with(nvinfer1::IPluginRegistry& registry, const char* library) {
  return static_cast<Registry*>(static_cast<void*>(&registry))->load_library(library);
}

}  // namespace

Nvinfer load_nvinfer(std::span<const char* const> names) {
  void* library = open_first(names);
  const auto version_of = reinterpret_cast<std::int32_t (*)()>(dlsym(library, "getInferLibVersion"));
  Nvinfer nvinfer;
  nvinfer.create_runtime =
      reinterpret_cast<decltype(nvinfer.create_runtime)>(dlsym(library, "createInferRuntime_INTERNAL"));
  if (version_of == nullptr || nvinfer.create_runtime == nullptr) {
    fail(Code::kNoBackend, "the library named as TensorRT has no getInferLibVersion or createInferRuntime_INTERNAL");
  }
  nvinfer.version = version_of();
  nvinfer.layout = tensorrt::layout_of(nvinfer.version);
  if (nvinfer.layout == Layout::kUnknown) {
    fail(Code::kNoBackend, "TensorRT is too old (its version number is " + std::to_string(nvinfer.version) +
                               "); install TensorRT 10, TensorRT 11 or TensorRT-RTX 1.7 or newer");
  }
  nvinfer.logger = logger_for(nvinfer.layout);
  return nvinfer;
}

void* load_plugins(Layout layout, nvinfer1::IRuntime& runtime, const char* library) {
  nvinfer1::IPluginRegistry& registry = call(layout, runtime, &VRuntime::getPluginRegistry);
  return layout == Layout::kTensorRt10 ? load_with<tensorrt::abi10::Registry>(registry, library)
                                       : load_with<tensorrt::abi11::Registry>(registry, library);
}

LogScope::LogScope(const LogSink& sink) : sink_(sink), outer_(std::exchange(current_scope, this)) {}
LogScope::~LogScope() { current_scope = outer_; }

void LogScope::fail(Code code, const std::string& what) const {
  throw Error(code, first_error_.empty() ? what : what + ": " + first_error_);
}

void LogScope::report(Severity severity, const char* message) noexcept {
  const bool is_error = severity <= Severity::kERROR;
  try {
    if (is_error && first_error_.empty()) first_error_ = message;
  } catch (...) {  // no memory for a text: the code says enough
  }
  if (sink_.log == nullptr || severity > Severity::kINFO) return;
  sink_.log(sink_.user, is_error ? HSMRT_ERROR : severity == Severity::kWARNING ? HSMRT_WARNING : HSMRT_INFO, message);
}

}  // namespace hsm::runtime::trt
