// Lists and structures that come through the C interface.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
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

// A number of things to give, of which there are fewer anyway.
inline std::int64_t count_of(std::size_t count) {
  constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  return static_cast<std::int64_t>(std::min(count, kMost));
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
  hsm_runtime::Sampling made;
  made.temperature = members.temperature;
  made.top_k = members.top_k;
  if (members.top_p != 0) made.top_p = members.top_p;
  made.min_p = members.min_p;
  if (members.repetition_penalty != 0) made.repetition_penalty = members.repetition_penalty;
  made.presence_penalty = members.presence_penalty;
  made.frequency_penalty = members.frequency_penalty;
  if (members.logit_bias_count > 0) std::ignore = given(members.logit_bias, "the list of biases");
  for (std::size_t i = 0; i < members.logit_bias_count; ++i) {
    made.logit_bias.push_back({members.logit_bias[i].token, members.logit_bias[i].bias});
  }
  if (members.on_logits != nullptr) {
    made.on_logits = [call = members.on_logits, user = members.user](std::span<double> logits) {
      call(user, logits.data(), logits.size());
    };
  }
  return made;
}

}  // namespace hsm::runtime::c_api
