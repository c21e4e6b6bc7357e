// What the files of the C interface share: the handles that cross them, and errors as codes and text.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>

#include "hsm_runtime.h"
#include "hsm_runtime/bundle.h"
#include "hsm_runtime/session.h"
#include "runtime/error.h"

struct hsmrt_bundle {
  hsm_runtime::Bundle bundle;
};
struct hsmrt_session {
  hsm_runtime::Session session;
};
struct hsmrt_cancellation {
  std::stop_source source;
};

namespace hsm::runtime::c_api {

// Puts the text into `error`, which may be NULL, and returns the code.
std::int32_t report(const Status& status, hsmrt_error* error) noexcept;

// Runs `body`, which throws Error or returns a Status.
template <typename F>
std::int32_t call(hsmrt_error* error, F&& body) noexcept {
  Status status;
  try {
    status = body();
  } catch (...) {
    status = current_status();
  }
  return report(status, error);
}

// What a pointer from the caller points to. Throws Error(kInvalidArgument) for NULL.
template <typename T>
T& given(T* pointer, const char* what) {
  if (pointer == nullptr) fail(Code::kInvalidArgument, std::string(what) + " is NULL");
  return *pointer;
}

}  // namespace hsm::runtime::c_api
