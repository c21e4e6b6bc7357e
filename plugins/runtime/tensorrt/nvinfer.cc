#include "runtime/tensorrt/nvinfer.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

namespace hsm::runtime::trt {
namespace {

using tensorrt::Layout;

thread_local LogScope* current_scope = nullptr;

constexpr std::int32_t kError = 1, kWarning = 2, kInfo = 3;  // ILogger::Severity, where 0 is an internal error

void report(std::int32_t severity, const char* message) noexcept {
  if (current_scope != nullptr && message != nullptr) current_scope->report(severity, message);
}

class Logger10 final : public tensorrt::abi10::Logger {
 public:
  void log(std::int32_t severity, const char* message) noexcept override { report(severity, message); }
};

// As abi11::Logger, with the one function that TensorRT may call here and the plugins never call.
struct InterfaceInfo {
  const char* kind;
  std::int32_t major, minor;
};

class Versioned {
 public:
  virtual std::int32_t language() const noexcept { return 0; }  // C++
  virtual InterfaceInfo interface_info() const noexcept { return {"ILogger", 1, 0}; }
  virtual ~Versioned() = default;
};

class Logger11 final : public Versioned {
 public:
  virtual void log(std::int32_t severity, const char* message) noexcept { report(severity, message); }
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
  const Layout layout = tensorrt::layout_of(nvinfer.version);
  if (layout == Layout::kUnknown) {
    fail(Code::kNoBackend, "TensorRT is too old (its version number is " + std::to_string(nvinfer.version) +
                               "); install TensorRT 10, TensorRT 11 or TensorRT-RTX 1.7 or newer");
  }
  nvinfer.slots = layout == Layout::kTensorRt10 ? &kSlots10 : &kSlots11;
  nvinfer.logger = logger_for(layout);
  return nvinfer;
}

LogScope::LogScope(const LogSink& sink) : sink_(sink), outer_(std::exchange(current_scope, this)) {}
LogScope::~LogScope() { current_scope = outer_; }

void LogScope::fail(Code code, const std::string& what) const {
  throw Error(code, first_error_.empty() ? what : what + ": " + first_error_);
}

void LogScope::report(std::int32_t severity, const char* message) noexcept {
  try {
    if (severity <= kError && first_error_.empty()) first_error_ = message;
  } catch (...) {  // no memory for a text: the code says enough
  }
  if (sink_.log == nullptr || severity > kInfo) return;
  sink_.log(sink_.user, severity <= kError ? HSMRT_ERROR : severity == kWarning ? HSMRT_WARNING : HSMRT_INFO, message);
}

}  // namespace hsm::runtime::trt
