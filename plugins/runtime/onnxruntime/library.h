// ONNX Runtime as the machine has it: found when it is asked for, linked by nobody.
#pragma once

#include <onnxruntime_c_api.h>

#include <mutex>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/error.h"

namespace hsm::runtime::ort {

struct Library {
  const OrtApi* api = nullptr;
  std::string version;
};

// Loads ONNX Runtime: `path`, or where HSM_ONNXRUNTIME_LIBRARY points to, or as the system finds it, or in the folder
// `beside` and in PyPI's wheel next to it. It stays loaded. Throws Error(kNoBackend) with what was tried.
Library load(const std::string& path, const std::string& beside, bool allow_telemetry);

// The callbacks of all sessions. ONNX Runtime has one environment in a process, whose messages go to all of them.
class Logs {
 public:
  static Logs& instance();
  void add(const hsm_runtime::LogCallback* log);
  void remove(const hsm_runtime::LogCallback* log);
  void tell(OrtLoggingLevel severity, const char* category, const char* message) noexcept;

 private:
  std::recursive_mutex mutex_;  // a callback may open or close sessions itself
  std::vector<const hsm_runtime::LogCallback*> logs_;
};

// Hands a message of ONNX Runtime's to a callback.
void forward(const hsm_runtime::LogCallback& log, OrtLoggingLevel severity, const char* category,
             const char* message) noexcept;

// The pool of threads that all sessions share.
struct SharedThreads {
  int threads;
  bool spinning;
  std::string affinity;
};

// The process's environment, which prints nothing; NULL: every session has a pool of its own. Throws Error(kNoBackend).
OrtEnv* make_environment(const OrtApi& api, const SharedThreads* shared);

// Throws an Error with ONNX Runtime's text, and releases the status.
void require(const OrtApi& api, OrtStatus* status, Code code, const char* what);

}  // namespace hsm::runtime::ort
