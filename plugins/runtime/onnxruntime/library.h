// ONNX Runtime as the machine has it: found when it is asked for, linked by nobody.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>

#include "runtime/error.h"

namespace hsm::runtime::ort {

struct Library {
  const OrtApi* api = nullptr;
  std::string version;
};

// Loads ONNX Runtime: `path`, or where HSM_ONNXRUNTIME_LIBRARY points to, or as the system finds it. It stays loaded.
// Throws Error(kNoBackend) with what was tried.
Library load(const std::string& path);

// Throws an Error with ONNX Runtime's text, and releases the status.
void require(const OrtApi& api, OrtStatus* status, Code code, const char* what);

}  // namespace hsm::runtime::ort
