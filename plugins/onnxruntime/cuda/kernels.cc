// The operators on CUDA kernels.
#include "onnxruntime/kernels.h"

#include <memory>
#include <optional>
#include <string>

#include "hsm_operators/common/cuda/current_device.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/cuda/refusal.h"
#include "onnxruntime/cuda/target.h"
#include "onnxruntime/status.h"

namespace hsm::onnxruntime {
namespace {

// Memory from ONNX Runtime's own allocator. It is given back as soon as the kernels are in the stream, before they have
// run. So it must be of that stream: each concurrent Run has a stream of its own, and what is taken without naming a
// stream is handed to any other as soon as it is given back.
class Workspace {
 public:
  Workspace(const Execution& execution, std::size_t bytes, cuda::Stream stream)
      : api_(*execution.api), allocator_(nullptr, api_.ReleaseAllocator) {
    if (bytes == 0) return;
    OrtMemoryInfo* created = nullptr;
    require(api_.CreateMemoryInfo(memory_name(), OrtDeviceAllocator, 0, OrtMemTypeDefault, &created));
    const std::unique_ptr<OrtMemoryInfo, decltype(api_.ReleaseMemoryInfo)> info(created, api_.ReleaseMemoryInfo);
    OrtAllocator* allocator = nullptr;
    require(api_.KernelContext_GetAllocator(execution.context, info.get(), &allocator));
    allocator_.reset(allocator);
    // Without a stream (on the host, where kernels have run when their launch returns, or CUDA's default stream, which
    // all share), ONNX Runtime's function for scratch memory follows a null pointer.
    require(stream == nullptr ? api_.AllocatorAlloc(allocator, bytes, &data_)
                              : api_.KernelContext_GetScratchBuffer(execution.context, info.get(), bytes, &data_));
  }
  ~Workspace() {
    if (data_ == nullptr) return;
    if (OrtStatus* status = api_.AllocatorFree(allocator_.get(), data_)) api_.ReleaseStatus(status);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return data_; }

 private:
  const OrtApi& api_;
  std::unique_ptr<OrtAllocator, decltype(OrtApi::ReleaseAllocator)> allocator_;
  void* data_ = nullptr;
};

}  // namespace

bool has_kernel(const opset::Operator& op) { return cuda::kernels_of(op) != nullptr; }

void compute(const opset::Operator& op, const Call& call, const Execution& execution) {
  const auto check = [&](bool good, const std::string& why) {
    if (good) return;
    throw StatusError(make_status(*execution.api, ORT_FAIL, std::string(op.name) + ": " + why));
  };
  const cuda::Kernels* kernels = cuda::kernels_of(op);
  check(kernels != nullptr, "this library has no CUDA kernel of it");
  const std::optional<cuda::Device> device = cuda::current_device();
  check(device.has_value(), "there is no CUDA device");
  const int tactic = tactic_of(*kernels, call, *device);
  if (!kernels->supports(call, tactic, *device)) check(false, cuda::refusal(op, call, *device));
  const cuda::Stream stream = stream_of(execution);
  const Workspace workspace(execution, kernels->workspace(call, tactic, *device), stream);
  const int error = kernels->launch(call, tactic, *device, workspace.data(), stream);
  check(error == 0, error == 0 ? "" : describe(error));
}

Packed pack_constant(const opset::Operator& /*op*/, DType /*type*/, std::size_t /*input*/,
                     const opset::Shape& /*shape*/, const void* /*data*/, std::size_t /*limit*/) {
  return nullptr;
}

}  // namespace hsm::onnxruntime
