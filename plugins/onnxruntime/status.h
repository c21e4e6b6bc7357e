// Errors as values at ONNX Runtime's C border: no exception may cross it.
#pragma once

#include <onnxruntime_c_api.h>

#include <exception>
#include <new>
#include <string>

namespace hsm::onnxruntime {

// Carries an OrtStatus through C++ code up to the border.
class StatusError : public std::exception {
 public:
  explicit StatusError(OrtStatus* status) : status_(status) {}
  const char* what() const noexcept override { return "ONNX Runtime refused a call"; }
  // Hands the status over; it is then the caller's.
  OrtStatus* release() const { return status_; }

 private:
  OrtStatus* status_;
};

inline OrtStatus* make_status(const OrtApi& api, OrtErrorCode code, const std::string& text) {
  return api.CreateStatus(code, text.c_str());
}

inline void require(OrtStatus* status) {
  if (status != nullptr) throw StatusError(status);
}

// Runs `body` and turns whatever it throws into an OrtStatus.
template <typename F>
OrtStatus* guarded(const OrtApi& api, F&& body) noexcept {
  try {
    return body();
  } catch (const StatusError& error) {
    return error.release();
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "hsm: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "hsm: unknown error");
  }
}

}  // namespace hsm::onnxruntime
