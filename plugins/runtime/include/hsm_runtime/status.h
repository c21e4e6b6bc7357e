// Errors as values: nothing in this library throws across its border, but std::bad_alloc's cousins become text too.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "hsm_runtime/export.h"

namespace hsm_runtime {

/// What went wrong, for programs; the text of a Status is for people. Numbers never change their meaning.
enum class Code : int {
  kOk = 0,
  kInvalidArgument = 1,  ///< The caller gave a wrong name, shape, type, device or option.
  kBadBundle = 2,        ///< The bundle is missing, damaged, hostile or of another schema.
  kNoBackend = 3,        ///< No back end of those asked for can run the model on this machine.
  kRunFailed = 4,        ///< The back end failed while it ran.
  kOutOfMemory = 5,
  kInternal = 6,     ///< A mistake of this library; please report it.
  kUnavailable = 7,  ///< Not now: too many requests wait. Try again later.
  kCancelled = 8,    ///< The caller asked for it to stop.
};

/// The code's name, such as "bad bundle".
HSM_RUNTIME_API std::string_view name_of(Code code);

/// Success, or a code and one sentence.
class [[nodiscard]] Status {
 public:
  Status() = default;
  /// An error, unless the code is kOk.
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  /// Whether all went well.
  bool ok() const { return code_ == Code::kOk; }
  /// For programs.
  Code code() const { return code_; }
  /// For people; empty when all went well.
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

/// A value, or why there is none. `*result` and `result->` need ok().
template <typename T>
class [[nodiscard]] Result {
 public:
  /// A value.
  Result(T value) : value_(std::move(value)) {}  // NOLINT: as implicit as a return statement
  /// Why there is none.
  Result(Status status) : status_(std::move(status)) {}  // NOLINT

  /// Whether there is a value.
  bool ok() const { return value_.has_value(); }
  /// Why there is none.
  const Status& status() const { return status_; }
  /// @{
  /// The value.
  T& operator*() & { return checked(); }
  const T& operator*() const& { return checked(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &checked(); }
  /// @}

 private:
  T& checked() {
    assert(value_ && "the value of a failed Result");
    return *value_;
  }
  const T& checked() const {
    assert(value_ && "the value of a failed Result");
    return *value_;
  }

  std::optional<T> value_;
  Status status_;
};

}  // namespace hsm_runtime
