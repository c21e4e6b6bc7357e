// What both libraries of this folder do alike: their operators by index, and the message of what did not happen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "hsm_operators/common/opset.h"
#include "torch/hsm_kernels.h"

namespace hsm::torch {

// Of this thread's last call that was refused or failed.
inline std::string& message() {
  thread_local std::string text;
  return text;
}

inline std::int32_t refused(std::string text) {
  message() = std::move(text);
  return HSM_KERNELS_REFUSED;
}

inline std::int32_t failed(std::string text) {
  message() = std::move(text);
  return HSM_KERNELS_FAILED;
}

// Every operator, as the library runs it: an Entry is made of the operator's table.
template <typename Entry>
const std::vector<Entry>& entries() {
  static const std::vector<Entry> the_entries(opset::operators().begin(), opset::operators().end());
  return the_entries;
}

template <typename Entry>
const Entry* entry_at(std::int32_t index) {
  const auto at = static_cast<std::size_t>(index);
  return at < entries<Entry>().size() ? &entries<Entry>()[at] : nullptr;
}

// Runs body(entry) of the operator of that index; no exception leaves.
template <typename Entry, typename Body>
std::int32_t with_entry(std::int32_t index, Body&& body) noexcept {
  try {
    const Entry* found = entry_at<Entry>(index);
    if (found == nullptr) return refused("there is no operator of index " + std::to_string(index));
    return body(*found);
  } catch (const std::bad_alloc&) {
    message() = "not enough memory";
  } catch (const std::exception& error) {
    message() = error.what();
  } catch (...) {
    message() = "unknown error";
  }
  return HSM_KERNELS_FAILED;
}

}  // namespace hsm::torch
