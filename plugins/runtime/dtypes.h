// Element types by name, and shapes for people.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "hsm_runtime/tensor.h"

namespace hsm::runtime {

std::optional<hsm_runtime::DType> dtype_from_name(std::string_view name);

// "(2, 17)".
std::string to_text(std::span<const std::int64_t> shape);
// "(batch, 17)".
std::string to_text(std::span<const hsm_runtime::Dimension> shape);

}  // namespace hsm::runtime
