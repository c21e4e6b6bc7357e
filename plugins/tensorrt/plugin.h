// One generic TensorRT plugin, driven by the operator table.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/opset.h"
#include "tensorrt/fields.h"
#include "tensorrt/library.h"
#include "tensorrt/plan.h"

namespace hsm::tensorrt {

// One node of a network: all three capabilities in one object. No method throws.
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // `attributes` were checked against the table; `node` is the node's name, for messages.
  Plugin(const opset::Operator& op, const cuda::Kernels& kernels, std::vector<opset::AttributeValue> attributes,
         std::string node);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override { return state_.op->plugin_version.data(); }
  const char* getPluginNamespace() const noexcept override { return state_.op->domain.data(); }

  std::int32_t getNbOutputs() const noexcept override;
  std::int32_t getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t output_count,
                                  const nvinfer1::DataType* input_types,
                                  std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs* shape_inputs, std::int32_t shape_input_count,
                               nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t input_count, std::int32_t output_count) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t output_count) noexcept override;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t output_count) const noexcept override;
  std::int32_t getNbTactics() noexcept override;
  std::int32_t getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept override;
  const char* getTimingCacheID() noexcept override { return state_.timing_cache_id.c_str(); }
  const char* getMetadataString() noexcept override { return state_.description.c_str(); }

  std::int32_t setTactic(std::int32_t tactic) noexcept override;
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                             const nvinfer1::PluginTensorDesc* outputs, std::int32_t output_count) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                       const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  // What a clone takes over.
  struct State {
    const opset::Operator* op;
    const cuda::Kernels* kernels;
    std::vector<opset::AttributeValue> attributes;
    std::string node;
    std::string description;
    std::string timing_cache_id;
    std::int32_t tactic = 0;            // what TensorRT chose: a tactic's number + 1, or 0: the launcher's own choice
    std::vector<std::int32_t> to_time;  // what TensorRT may choose from
    std::optional<cuda::Device> device;
    std::optional<Sizes> sizes;  // of the next launch; nothing until they are known
    int launch_tactic = 0;       // for these sizes on this device
  };

  explicit Plugin(const State& state) : state_(state) {}

  nvinfer1::IPluginV3* copy(const char* where) noexcept;
  std::string sentence(const std::string& problem) const;
  std::int32_t refuse(const std::string& problem) const;
  std::optional<DType> type_of_node(const nvinfer1::PluginTensorDesc* inputs) const;
  bool has_shapes(const nvinfer1::PluginTensorDesc* inputs) const;
  bool prepare(const nvinfer1::PluginTensorDesc* inputs);

  State state_;
  std::unique_ptr<Fields> fields_;
};

}  // namespace hsm::tensorrt
