// Errors inside the library: thrown, and turned into values at its border.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "hsm_runtime/status.h"

namespace hsm::runtime {

using hsm_runtime::Code;
using hsm_runtime::Result;
using hsm_runtime::Status;

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  const Code code;
};

// Bundles may come from anybody, so what errors quote of them is plain text of a limited length, whatever bytes it had.
inline std::string printable(std::string text) {
  constexpr std::size_t kLongest = 500;
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) c = '?';
  }
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

[[noreturn]] inline void fail(Code code, std::string message) {
  throw Error(code, code == Code::kBadBundle ? printable(std::move(message)) : std::move(message));
}

// Call in a catch block: the exception in flight, as a value.
inline Status current_status() noexcept {
  try {
    try {
      throw;
    } catch (const Error& error) {
      return {error.code, error.what()};
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      return {Code::kInternal, error.what()};
    } catch (...) {
      return {Code::kInternal, "unknown error"};
    }
  } catch (...) {                                  // or there is no memory for the text
    return {Code::kOutOfMemory, "out of memory"};  // short enough not to allocate
  }
}

// Runs `body`, which returns the value of a Result<T>.
template <typename T, typename F>
Result<T> guarded(F&& body) noexcept {
  try {
    return Result<T>(body());
  } catch (...) {
    return Result<T>(current_status());
  }
}

template <typename F>
Status guarded_status(F&& body) noexcept {
  try {
    body();
    return {};
  } catch (...) {
    return current_status();
  }
}

}  // namespace hsm::runtime
