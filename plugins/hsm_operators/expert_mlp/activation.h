// The activations by their numbers in the operator's attribute.
#pragma once

#include <cstdint>

namespace hsm {

enum class Activation : std::int64_t { kRelu = 0, kGelu = 1, kGeluTanh = 2 };

}  // namespace hsm
