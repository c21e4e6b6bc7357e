#include "runtime/onnxruntime/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>

namespace hsm::runtime::ort {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

// PyPI's wheel has libonnxruntime.so.1.31.1 and no link libonnxruntime.so.1, which the system would look for.
void add_versions(const fs::path& folder, std::vector<std::string>& names) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().starts_with("libonnxruntime.so.")) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  names.insert(names.end(), found.rbegin(), found.rend());
}

std::vector<std::string> candidates(const std::string& path, const std::string& beside) {
  if (!path.empty()) return {path};
  if (const std::string chosen = variable("HSM_ONNXRUNTIME_LIBRARY"); !chosen.empty()) return {chosen};
  std::vector<std::string> names = {"libonnxruntime.so.1", "libonnxruntime.so"};
  add_versions(beside, names);
  add_versions(fs::path(beside) / "../../onnxruntime/capi", names);  // site-packages holds both wheels
  std::istringstream folders(variable("LD_LIBRARY_PATH"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (!folder.empty()) add_versions(folder, names);
  }
  return names;
}

void* open_first(const std::vector<std::string>& names) {
  std::string reasons;
  for (const std::string& name : names) {
    // ONNX Runtime leaves threads and thread-local data behind, so it is never unloaded.
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return handle;
    const char* reason = dlerror();
    reasons += (reasons.empty() ? "" : "; ") + std::string(reason == nullptr ? name : reason);
  }
  fail(Code::kNoBackend,
       "ONNX Runtime cannot be loaded (" + reasons +
           "); get it with `pip install onnxruntime`, whose folder onnxruntime/capi holds it, or from "
           "github.com/microsoft/onnxruntime/releases, and name the file in HSM_ONNXRUNTIME_LIBRARY");
}

// Version 1.31 and newer report home and keep a store in the user's folder, unless this is set before they are loaded.
void silence_telemetry() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("ORT_DISABLE_TELEMETRY", "1", 0); });
}

void ORT_API_CALL forward_environment_log(void*, OrtLoggingLevel severity, const char* category, const char*,
                                          const char*, const char* message) noexcept {
  Logs::instance().tell(severity, category, message);
}

}  // namespace

Logs& Logs::instance() {
  static auto* logs = new Logs();  // never destroyed: ONNX Runtime's threads may still tell something at exit
  return *logs;
}

void Logs::add(const hsm_runtime::LogCallback* log) {
  const std::lock_guard lock(mutex_);
  logs_.push_back(log);
}

void Logs::remove(const hsm_runtime::LogCallback* log) {
  const std::lock_guard lock(mutex_);
  logs_.erase(std::find(logs_.begin(), logs_.end(), log));
}

void Logs::tell(OrtLoggingLevel severity, const char* category, const char* message) noexcept {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < logs_.size(); ++i) forward(*logs_[i], severity, category, message);
}

void forward(const hsm_runtime::LogCallback& log, OrtLoggingLevel severity, const char* category,
             const char* message) noexcept {
  if (!log) return;
  using hsm_runtime::LogLevel;
  const LogLevel level = severity >= ORT_LOGGING_LEVEL_ERROR     ? LogLevel::kError
                         : severity == ORT_LOGGING_LEVEL_WARNING ? LogLevel::kWarning
                                                                 : LogLevel::kInfo;
  try {
    log(level, std::string(category) + ": " + message);
  } catch (...) {  // a callback must not throw; one that does ends nothing
  }
}

OrtEnv* make_environment(const OrtApi& api, const SharedThreads* shared) {
  OrtEnv* environment = nullptr;
  constexpr const char* kRefuses = "ONNX Runtime refuses";
  if (shared != nullptr) {
    OrtThreadingOptions* made = nullptr;
    require(api, api.CreateThreadingOptions(&made), Code::kNoBackend, kRefuses);
    const std::unique_ptr<OrtThreadingOptions, void(ORT_API_CALL*)(OrtThreadingOptions*)> options(
        made, api.ReleaseThreadingOptions);
    require(api, api.SetGlobalIntraOpNumThreads(made, shared->threads), Code::kNoBackend, kRefuses);
    require(api, api.SetGlobalInterOpNumThreads(made, 1), Code::kNoBackend, kRefuses);
    require(api, api.SetGlobalSpinControl(made, shared->spinning ? 1 : 0), Code::kNoBackend, kRefuses);
    if (!shared->affinity.empty()) {
      require(api, api.SetGlobalIntraOpThreadAffinity(made, shared->affinity.c_str()), Code::kInvalidArgument,
              kRefuses);
    }
    require(api,
            api.CreateEnvWithCustomLoggerAndGlobalThreadPools(forward_environment_log, nullptr, ORT_LOGGING_LEVEL_ERROR,
                                                              "hsm_runtime", made, &environment),
            Code::kNoBackend, kRefuses);
    return environment;
  }
  require(api,
          api.CreateEnvWithCustomLogger(forward_environment_log, nullptr, ORT_LOGGING_LEVEL_ERROR, "hsm_runtime",
                                        &environment),
          Code::kNoBackend, "ONNX Runtime refuses");
  return environment;
}

Library load(const std::string& path, const std::string& beside, bool allow_telemetry) {
  if (!allow_telemetry) silence_telemetry();
  void* handle = open_first(candidates(path, beside));
  const auto base_of = reinterpret_cast<const OrtApiBase*(ORT_API_CALL*)()>(dlsym(handle, "OrtGetApiBase"));
  if (base_of == nullptr) fail(Code::kNoBackend, "the library named as ONNX Runtime has no OrtGetApiBase");
  const OrtApiBase* base = base_of();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    fail(Code::kNoBackend, "ONNX Runtime " + std::string(base->GetVersionString()) + " is too old; install 1." +
                               std::to_string(ORT_API_VERSION) + " or newer");
  }
  return {api, base->GetVersionString()};
}

void require(const OrtApi& api, OrtStatus* status, Code code, const char* what) {
  if (status == nullptr) return;
  const std::string message = std::string(what) + ": " + api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  // It has no code for this.
  const bool no_memory =
      message.find("bad_alloc") != std::string::npos || message.find("Failed to allocate memory") != std::string::npos;
  fail(no_memory ? Code::kOutOfMemory : code, no_memory ? "out of memory: " + message : message);
}

}  // namespace hsm::runtime::ort
