// Plays TensorRT's builder and runtime: descriptions of tensors, expressions of sizes, workspace with guard pages.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"
#include "tensorrt/creator.h"
#include "tests/tensorrt/node.h"

namespace hsm::testing {

nvinfer1::DataType data_type(const opset::Port& port, DType t);
nvinfer1::Dims to_dims(const opset::Shape& shape);

// Descriptions of the tensors of `ports`: of one size, or for a profile.
std::vector<nvinfer1::PluginTensorDesc> describe(std::span<const opset::Port> ports, DType t, const Sizes& sizes);
std::vector<nvinfer1::DynamicPluginTensorDesc> describe(std::span<const opset::Port> ports, DType t, const Sizes& min,
                                                        const Sizes& opt, const Sizes& max);

// Expressions of sizes: constants, and sizes that only the running engine knows, which hold their own number.
class Expressions : public nvinfer1::IExprBuilder {
 public:
  Expressions();
  ~Expressions() override;
  const nvinfer1::IDimensionExpr* constant(std::int64_t value) { return add(value, true); }
  const nvinfer1::IDimensionExpr* dynamic(std::int64_t value) { return add(value, false); }
  std::int64_t value_of(const nvinfer1::IDimensionExpr* expression) const;

  // The shapes of inputs; batch and length are dynamic unless `is_static`.
  std::vector<nvinfer1::DimsExprs> inputs(std::span<const opset::Port> ports, const Sizes& sizes, bool is_static);

 private:
  struct State;

  const nvinfer1::IDimensionExpr* add(std::int64_t value, bool is_constant);

  std::unique_ptr<State> state_;
};

// Memory that ends at a page that must not be touched, and starts after one (give or take the alignment).
class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t bytes);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* mapping_;
  std::size_t mapped_;
  void* data_;
};

using PluginPointer = std::unique_ptr<nvinfer1::IPluginV3>;

// Fields of attribute values; INT32 where `wide` is false.
class FieldList {
 public:
  explicit FieldList(const std::vector<opset::AttributeValue>& values, bool wide = true);
  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }
  std::vector<nvinfer1::PluginField>& fields() { return fields_; }

 private:
  std::deque<std::vector<std::int32_t>> narrow_;
  std::deque<std::vector<std::int64_t>> wide_;
  std::deque<std::string> names_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

PluginPointer create(const opset::Operator& op, const std::vector<opset::AttributeValue>& attributes,
                     nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD);

nvinfer1::IPluginV3OneCore& core(const PluginPointer& plugin);
nvinfer1::IPluginV3OneBuild& build(const PluginPointer& plugin);
nvinfer1::IPluginV3OneRuntime& runtime(const PluginPointer& plugin);

// Configures a plugin for a profile and returns its workspace.
std::size_t configure(const PluginPointer& plugin, const opset::Operator& op, DType t, const Sizes& min,
                      const Sizes& opt, const Sizes& max);

struct RunOptions {
  bool announce = true;   // call onShapeChange first
  bool in_place = false;  // one buffer is a state and the new state
};

// Runs a node and compares its outputs.
void run(const PluginPointer& plugin, const Node& node, const Sizes& sizes, void* workspace, const std::string& what,
         RunOptions options = {});

}  // namespace hsm::testing
