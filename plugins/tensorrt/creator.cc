#include "tensorrt/creator.h"

#include <deque>
#include <utility>
#include <vector>

#include "tensorrt/guard.h"
#include "tensorrt/plugin.h"

namespace hsm::tensorrt {

nvinfer1::IPluginV3* Creator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
  return guarded("createPlugin", static_cast<nvinfer1::IPluginV3*>(nullptr), [&]() -> nvinfer1::IPluginV3* {
    std::string node = name == nullptr ? "" : name;
    std::vector<opset::AttributeValue> attributes;
    if (const auto problem = read_fields(op_, fields, attributes)) {
      log(Severity::kError, node.empty() ? *problem : node + ": " + *problem);
      return nullptr;
    }
    const cuda::Kernels* kernels = cuda::kernels_of(op_);
    if (kernels == nullptr) {
      log(Severity::kError, std::string(op_.name) + ": this library has no CUDA kernels of it");
      return nullptr;
    }
    return new Plugin(op_, *kernels, std::move(attributes), std::move(node));
  });
}

std::span<nvinfer1::IPluginCreatorInterface* const> creators() {
  static std::deque<Creator> owners;  // a deque never moves its elements
  static const std::vector<nvinfer1::IPluginCreatorInterface*> pointers = [] {
    std::vector<nvinfer1::IPluginCreatorInterface*> all;
    for (const opset::Operator& op : opset::operators()) {
      if (cuda::kernels_of(op) != nullptr) all.push_back(&owners.emplace_back(op));
    }
    return all;
  }();
  return pointers;
}

}  // namespace hsm::tensorrt
