// The library's results inside this program, which throws.
#pragma once

#include <utility>

#include "hsm_runtime/status.h"
#include "runtime/error.h"

namespace hsm::run {

// The value, or an Error with what the status says.
template <typename T>
T require(hsm_runtime::Result<T> result) {
  if (!result.ok()) runtime::fail(result.status().code(), result.status().message());
  return *std::move(result);
}

}  // namespace hsm::run
