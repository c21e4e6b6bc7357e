// Lists and structures that come through the C interface.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <tuple>

#include "hsm_runtime/generator.h"
#include "runtime/c_api.h"

namespace hsm::runtime::c_api {

// NULL with a count of 0 is an empty list.
inline std::span<const std::int64_t> list_of(const std::int64_t* numbers, std::size_t count, const char* what) {
  if (count > 0) std::ignore = given(numbers, what);
  return {numbers, count};
}

// What a caller's structure says of itself; it may be shorter than ours, when the caller's header is older.
template <typename T>
T members_of(const T* structure, const char* what) {
  constexpr std::size_t kMost = 4096;
  const std::size_t size = given(structure, what).size;
  if (size < sizeof size || size > kMost) {
    fail(Code::kInvalidArgument, std::string("the size in ") + what + " is not that of one");
  }
  T members = {};
  std::memcpy(&members, structure, std::min(size, sizeof members));
  return members;
}

inline hsm_runtime::Sampling sampling_of(const hsmrt_sampling* sampling) {
  const hsmrt_sampling members = members_of(sampling, "the sampling's settings");
  return {.temperature = members.temperature,
          .top_k = members.top_k,
          .top_p = members.top_p == 0 ? 1 : members.top_p,
          .min_p = members.min_p};
}

}  // namespace hsm::runtime::c_api
