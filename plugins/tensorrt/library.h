// What libhsm_tensorrt.so exports, and under which names its plugins are registered.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

namespace hsm::tensorrt {

inline constexpr const char* kNamespace = "hsm";
inline constexpr const char* kVersion = "1";

}  // namespace hsm::tensorrt

#define HSM_EXPORT __attribute__((visibility("default")))

extern "C" {

// Returns the creators of all plugins.
HSM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

// Gives the plugins the way to TensorRT's logger.
HSM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
}
