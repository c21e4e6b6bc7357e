// Which engine of a bundle fits a machine, from the manifest alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/manifest.h"
#include "runtime/tensorrt/backend.h"

namespace hsm::runtime::trt {

// Why an engine does not fit, as one sentence; empty when it does.
std::string mismatch(const hsm::runtime::Engine& engine, const Machine& machine, bool allow_embedded_plugins);

// The engines of a part that fit, those for exactly this GPU first. Throws Error(kNoBackend) with what does not match
// in each when none does.
std::vector<const hsm::runtime::Engine*> fitting(const std::vector<hsm::runtime::Engine>& engines,
                                                 std::string_view part, const Machine& machine,
                                                 bool allow_embedded_plugins);

// The shared libraries that could run engines of a target ("tensorrt" or "tensorrt-rtx"), those that the engines were
// built with first.
std::vector<std::string> libraries_for(const std::vector<hsm::runtime::Engine>& engines, std::string_view part,
                                       std::string_view target);

}  // namespace hsm::runtime::trt
