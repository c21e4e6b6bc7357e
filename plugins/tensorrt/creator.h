// Makes plugins: one creator for each operator of the table that has CUDA kernels.
#pragma once

#include <NvInferRuntime.h>

#include <span>
#include <string>

#include "hsm_operators/common/opset.h"
#include "tensorrt/fields.h"

namespace hsm::tensorrt {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const opset::Operator& op) : op_(op), fields_(op) {}

  // The same in the build and the runtime phase: a plugin is its attributes. Returns null, and logs why, when they are
  // missing or wrong.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return fields_.collection(); }
  const char* getPluginName() const noexcept override { return op_.name.data(); }
  const char* getPluginVersion() const noexcept override { return op_.plugin_version.data(); }
  const char* getPluginNamespace() const noexcept override { return op_.domain.data(); }

 private:
  const opset::Operator& op_;
  const Fields fields_;
};

// Returns the creators of all operators, which live as long as the library.
std::span<nvinfer1::IPluginCreatorInterface* const> creators();

}  // namespace hsm::tensorrt
