// What a plugin library exports.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#define HSM_EXPORT __attribute__((visibility("default")))

extern "C" {

// Returns the creators of all plugins.
HSM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

// Gives the plugins the way to TensorRT's logger.
HSM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
}
