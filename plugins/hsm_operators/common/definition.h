// The operators' definitions as functions of a call, for tests: slow, and right by being short.
#pragma once

#include <span>
#include <string_view>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/opset.h"

namespace hsm {

struct Definition {
  void (*run)(const Call& call);
  std::string_view domain;
  std::string_view name;
};

// Returns one row for each operator that has a definition in C++. Generated.
std::span<const Definition> definitions();

// Returns an operator's definition, or nullptr.
inline const Definition* definition_of(const opset::Operator& op) { return opset::row_of(definitions(), op); }

}  // namespace hsm
