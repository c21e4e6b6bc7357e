// Messages of the plugins, through TensorRT's logger where it is known.
#pragma once

#include <cstdint>
#include <string>

#include "tensorrt/abi.h"

namespace hsm::tensorrt {

// The numbers are those of nvinfer1::ILogger::Severity.
enum class Severity : std::int32_t { kError = 1, kWarning = 2, kInfo = 3, kVerbose = 4 };

// Remembers TensorRT's logger finder; null forgets it.
void set_logger_finder(void* finder, Layout layout) noexcept;

// Writes a message to the logger of the engine that called the plugin, so it must be called in the thread in which the
// plugin was called. Without a logger, errors and warnings go to stderr.
void log(Severity severity, const std::string& message) noexcept;

}  // namespace hsm::tensorrt
