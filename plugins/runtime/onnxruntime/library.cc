#include "runtime/onnxruntime/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

namespace hsm::runtime::ort {
namespace {

std::vector<std::string> candidates(const std::string& path) {
  if (!path.empty()) return {path};
  const char* chosen = std::getenv("HSM_ONNXRUNTIME_LIBRARY");
  if (chosen != nullptr && *chosen != '\0') return {chosen};
  return {"libonnxruntime.so.1", "libonnxruntime.so"};
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
       "ONNX Runtime cannot be loaded (" + reasons + "); install it, or name its library in HSM_ONNXRUNTIME_LIBRARY");
}

}  // namespace

Library load(const std::string& path) {
  void* handle = open_first(candidates(path));
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
  fail(code, message);
}

}  // namespace hsm::runtime::ort
