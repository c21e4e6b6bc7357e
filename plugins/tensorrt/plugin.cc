#include "tensorrt/plugin.h"

#include <algorithm>
#include <cstdio>
#include <span>
#include <utility>

#include "hsm_operators/common/cuda/current_device.h"
#include "hsm_operators/common/cuda/refusal.h"
#include "tensorrt/guard.h"
#include "tensorrt/signature.h"

namespace hsm::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kFailure = -1;

// "shifts=1,2,4", "normalize=1 output_norm=0" or "slope=0x1.8p-2": every bit of a float counts.
std::string to_text(std::span<const opset::AttributeValue> attributes) {
  std::string text;
  for (const opset::AttributeValue& attribute : attributes) {
    if (!text.empty()) text += ' ';
    std::string numbers;
    for (const std::int64_t number : attribute.ints) numbers += (numbers.empty() ? "" : ",") + std::to_string(number);
    for (const float number : attribute.floats) {
      std::array<char, 64> digits{};
      std::snprintf(digits.data(), digits.size(), "%a", static_cast<double>(number));
      numbers += (numbers.empty() ? "" : ",") + std::string(digits.data());
    }
    text += std::string(attribute.name) + "=" + numbers;
  }
  return text;
}

template <typename T>
std::span<const T> as_span(const T* items, std::int32_t count) {
  return {items, static_cast<std::size_t>(std::max(count, 0))};
}

template <typename Dims>
std::vector<opset::Shape> shapes_of(std::span<const DynamicPluginTensorDesc> tensors, Dims dims) {
  std::vector<opset::Shape> shapes;
  for (const DynamicPluginTensorDesc& tensor : tensors) shapes.push_back(shape_of(tensor.*dims));
  return shapes;
}

}  // namespace

Plugin::Plugin(const opset::Operator& op, const cuda::Kernels& kernels, std::vector<opset::AttributeValue> attributes,
               std::string node)
    : state_{.op = &op,
             .kernels = &kernels,
             .attributes = std::move(attributes),
             .node = std::move(node),
             .description = {},
             .timing_cache_id = {},
             .to_time = {},
             .device = {},
             .sizes = {}} {
  const std::string attribute_text = to_text(state_.attributes);
  state_.description = std::string(op.name) + " " + attribute_text;
  // Another version's kernels are not as fast as this one's.
  state_.timing_cache_id = std::string(op.domain) + "-" HSM_VERSION " " + attribute_text;
}

// ---------------------------------------------------------------- core

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::copy(const char* where) noexcept {
  return guarded(where, static_cast<nvinfer1::IPluginV3*>(nullptr), [&] { return new Plugin(state_); });
}

nvinfer1::IPluginV3* Plugin::clone() noexcept { return copy("clone"); }

const char* Plugin::getPluginName() const noexcept { return state_.op->name.data(); }

std::string Plugin::sentence(const std::string& problem) const {
  return state_.node.empty() ? problem : state_.node + ": " + problem;
}

std::int32_t Plugin::refuse(const std::string& problem) const {
  log(Severity::kError, sentence(problem));
  return kFailure;
}

// ---------------------------------------------------------------- build

std::int32_t Plugin::getNbOutputs() const noexcept { return static_cast<std::int32_t>(state_.op->outputs.size()); }

std::int32_t Plugin::getOutputDataTypes(DataType* output_types, std::int32_t output_count, const DataType* input_types,
                                        std::int32_t input_count) const noexcept {
  return guarded("getOutputDataTypes", kFailure, [&] {
    DType t{};
    if (const auto problem = check_types(*state_.op, as_span(input_types, input_count), t)) return refuse(*problem);
    if (output_count != getNbOutputs()) return refuse("an engine asks for a wrong number of outputs");
    std::ranges::transform(state_.op->outputs, output_types,
                           [&](const opset::Port& port) { return data_type(port, t); });
    return 0;
  });
}

std::int32_t Plugin::getOutputShapes(const DimsExprs* inputs, std::int32_t input_count, const DimsExprs*, std::int32_t,
                                     DimsExprs* outputs, std::int32_t output_count, nvinfer1::IExprBuilder&) noexcept {
  return guarded("getOutputShapes", kFailure, [&] {
    const auto given = as_span(inputs, input_count);
    std::vector<opset::Shape> inferred;
    if (const auto problem = opset::infer_shapes(*state_.op, state_.attributes, known_shapes(given), inferred)) {
      return refuse(*problem);
    }
    if (output_count != getNbOutputs()) return refuse("an engine asks for a wrong number of outputs");
    std::ranges::transform(state_.op->outputs, outputs,
                           [&](const opset::Port& port) { return output_shape(*state_.op, port, given); });
    return 0;
  });
}

bool Plugin::supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors,
                                       std::int32_t input_count, std::int32_t) noexcept {
  const auto& [op, kernels] = std::pair(state_.op, state_.kernels);
  const auto index = static_cast<std::size_t>(position);
  const auto inputs = static_cast<std::size_t>(input_count);
  if (inputs != op->inputs.size() || index >= inputs + op->outputs.size()) return false;
  const PluginTensorDesc& tensor = tensors[index].desc;
  const auto t = node_type(*op, [&](std::size_t i) { return tensors[i].desc.type; });
  if (!t || tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  return tensor.type == data_type(index < inputs ? op->inputs[index] : op->outputs[index - inputs], *t);
}

std::int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                     const DynamicPluginTensorDesc*, std::int32_t) noexcept {
  return guarded("configurePlugin", kFailure, [&] {
    const auto given = as_span(inputs, input_count);
    state_.to_time.clear();
    if (given.size() != state_.op->inputs.size()) return refuse("an engine passes a wrong number of inputs");
    const auto t = node_type(*state_.op, [&](std::size_t i) { return given[i].desc.type; });
    if (!t) return refuse("an engine passes an element type that it was told is not supported");
    std::array<Sizes, 3> profile;
    std::vector<Call> calls;
    using Desc = DynamicPluginTensorDesc;
    for (std::size_t i = 0; i < profile.size(); ++i) {
      auto shapes = shapes_of(given, std::array{&Desc::min, &Desc::opt, &Desc::max}[i]);
      if (const auto problem = profile[i].assign(*state_.op, *t, state_.attributes, std::move(shapes))) {
        return refuse(*problem);
      }
      calls.push_back(profile[i].question(state_.attributes));
    }
    state_.device = cuda::current_device();
    if (!state_.device) return 0;  // nothing is timed without a GPU
    for (const int tactic : tactics_to_time(*state_.kernels, calls, *state_.device)) {
      state_.to_time.push_back(tactic + 1);
      log(Severity::kVerbose, sentence(state_.description + ": tactic " + std::to_string(tactic + 1) + " is " +
                                       std::string(state_.kernels->tactics()[static_cast<std::size_t>(tactic)])));
    }
    return 0;
  });
}

std::size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                     const DynamicPluginTensorDesc*, std::int32_t) const noexcept {
  return guarded("getWorkspaceSize", std::size_t{0}, [&]() -> std::size_t {
    const auto given = as_span(inputs, input_count);
    if (given.size() != state_.op->inputs.size()) return 0;
    const auto t = node_type(*state_.op, [&](std::size_t i) { return given[i].desc.type; });
    if (!t) return 0;
    Sizes largest;
    auto shapes = shapes_of(given, &DynamicPluginTensorDesc::max);
    if (const auto problem = largest.assign(*state_.op, *t, state_.attributes, std::move(shapes))) {
      static_cast<void>(refuse(*problem));
      return 0;
    }
    return workspace_bound(*state_.kernels, largest.question(state_.attributes));
  });
}

std::int32_t Plugin::getNbTactics() noexcept { return static_cast<std::int32_t>(state_.to_time.size()); }

std::int32_t Plugin::getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept {
  if (count != getNbTactics()) return kFailure;
  std::ranges::copy(state_.to_time, tactics);
  return 0;
}

// ---------------------------------------------------------------- runtime

std::int32_t Plugin::setTactic(std::int32_t tactic) noexcept {
  return guarded("setTactic", kFailure, [&] {
    if (tactic < 0 || tactic > static_cast<std::int32_t>(state_.kernels->tactics().size())) {
      return refuse(std::string(state_.op->name) + " has no tactic " + std::to_string(tactic) +
                    "; was the engine built with another version of this library?");
    }
    state_.tactic = tactic;
    state_.sizes.reset();
    return 0;
  });
}

std::int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count, const PluginTensorDesc*,
                                   std::int32_t) noexcept {
  return guarded("onShapeChange", kFailure, [&] {
    if (static_cast<std::size_t>(std::max(input_count, 0)) != state_.op->inputs.size()) {
      return refuse("an engine passes a wrong number of inputs");
    }
    state_.sizes.reset();
    // While an engine is built there need not be a GPU.
    if (!state_.device) state_.device = cuda::current_device();
    return !state_.device || prepare(inputs) ? 0 : kFailure;
  });
}

std::optional<DType> Plugin::type_of_node(const PluginTensorDesc* inputs) const {
  return node_type(*state_.op, [&](std::size_t i) { return inputs[i].type; });
}

bool Plugin::has_shapes(const PluginTensorDesc* inputs) const {
  if (!state_.sizes || type_of_node(inputs) != state_.sizes->type()) return false;
  const auto shapes = state_.sizes->shapes();
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (!std::ranges::equal(shapes[i], as_span(inputs[i].dims.d, inputs[i].dims.nbDims))) return false;
  }
  return true;
}

// Chooses the tactic for these inputs on this device.
bool Plugin::prepare(const PluginTensorDesc* inputs) {
  const cuda::Kernels& kernels = *state_.kernels;
  const cuda::Device& device = *state_.device;
  std::vector<opset::Shape> shapes;
  for (std::size_t i = 0; i < state_.op->inputs.size(); ++i) shapes.push_back(shape_of(inputs[i].dims));
  const auto t = type_of_node(inputs);
  if (!t) return refuse(std::string(state_.op->name) + ": an unexpected element type"), false;
  Sizes sizes;
  if (const auto problem = sizes.assign(*state_.op, *t, state_.attributes, std::move(shapes))) {
    return refuse(*problem), false;
  }
  const Call question = sizes.question(state_.attributes);
  int tactic = state_.tactic - 1;
  if (tactic < 0 || !kernels.supports(question, tactic, device)) tactic = kernels.default_tactic(question, device);
  if (!kernels.supports(question, tactic, device)) {
    return refuse(std::string(state_.op->name) + ": " + cuda::refusal(*state_.op, question, device)), false;
  }
  if (kernels.workspace(question, tactic, device) > workspace_bound(kernels, question)) {
    return refuse(std::string(state_.op->name) + ": this GPU (sm_" + std::to_string(device.sm) +
                  ") needs more workspace than the engine has; build the engine on it"),
           false;
  }
  state_.sizes = std::move(sizes);
  state_.launch_tactic = tactic;
  return true;
}

std::int32_t Plugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*, const void* const* inputs,
                             void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded("enqueue", kFailure, [&] {
    if (!state_.device) state_.device = cuda::current_device();
    if (!state_.device) return refuse(std::string(state_.op->name) + ": there is no GPU to run on");
    if (!has_shapes(input_descs) && !prepare(input_descs)) return kFailure;
    const Call call{state_.sizes->type(), state_.attributes, state_.sizes->shapes(),
                    std::span(inputs, state_.op->inputs.size()), std::span(outputs, state_.op->outputs.size())};
    const int error = state_.kernels->launch(call, state_.launch_tactic, *state_.device, workspace, stream);
    if (error == 0) return 0;
    const auto tactic = state_.kernels->tactics()[static_cast<std::size_t>(state_.launch_tactic)];
    static_cast<void>(refuse(std::string(state_.op->name) + ": launching " + std::string(tactic) +
                             " failed with CUDA error " + std::to_string(error)));
    return error;
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return copy("attachToContext");
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded("getFieldsToSerialize", static_cast<const nvinfer1::PluginFieldCollection*>(nullptr), [&] {
    fields_ = std::make_unique<Fields>(state_.attributes);
    return fields_->collection();
  });
}

}  // namespace hsm::tensorrt
