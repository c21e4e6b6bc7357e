// Entry points of a plugin library, which TensorRT's plugin registry looks for by name.
#include "tensorrt/library.h"

#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/description.h"
#include "tensorrt/abi.h"
#include "tensorrt/creator.h"
#include "tensorrt/guard.h"

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  count = 0;
  return hsm::tensorrt::guarded("getCreators", static_cast<nvinfer1::IPluginCreatorInterface* const*>(nullptr), [&] {
    const auto all = hsm::tensorrt::creators();
    count = static_cast<std::int32_t>(all.size());
    return all.data();
  });
}

const char* hsm_library_operators() {
  return hsm::opset::described_library(
      [](const hsm::opset::Operator& op) { return hsm::cuda::kernels_of(op) != nullptr; });
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  hsm::tensorrt::set_logger_finder(
      finder, finder == nullptr ? hsm::tensorrt::Layout::kUnknown : hsm::tensorrt::library_of(finder).layout);
}
