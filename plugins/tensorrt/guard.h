// No exception may cross TensorRT's border.
#pragma once

#include <exception>

#include "tensorrt/logging.h"

namespace hsm::tensorrt {

// Runs `body`; what it throws is logged, and `failure` returned.
template <typename Result, typename Body>
Result guarded(const char* where, Result failure, Body&& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    try {
      log(Severity::kError, std::string("hsm: ") + where + ": " + error.what());
    } catch (...) {
      // Not even memory for a message: the result says enough.
    }
  } catch (...) {
    // Nothing in here throws anything else.
  }
  return failure;
}

}  // namespace hsm::tensorrt
