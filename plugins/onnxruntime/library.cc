// Entry point of libhsm_onnxruntime.so: registers every operator of the table, for every element type.
#include <onnxruntime_c_api.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "mixers/opset.h"
#include "onnxruntime/adapter.h"
#include "onnxruntime/status.h"

#if defined(_WIN32)
#define HSM_EXPORT __declspec(dllexport)
#else
#define HSM_EXPORT __attribute__((visibility("default")))
#endif

namespace {

// What sessions point to until the library is unloaded.
class Registry {
 public:
  explicit Registry(const OrtApi& api) : domain_(nullptr, api.ReleaseCustomOpDomain) {
    OrtCustomOpDomain* domain = nullptr;
    hsm::onnxruntime::require(api.CreateCustomOpDomain(hsm::opset::kDomain.data(), &domain));
    domain_.reset(domain);
    for (const hsm::opset::Operator& op : hsm::opset::operators()) {
      for (const hsm::DType type : {hsm::DType::kFloat32, hsm::DType::kFloat16, hsm::DType::kBFloat16}) {
        hsm::onnxruntime::require(api.CustomOpDomain_Add(domain, &ops_.emplace_back(api, op, type)));
      }
    }
  }

  OrtCustomOpDomain* domain() { return domain_.get(); }

 private:
  std::deque<hsm::onnxruntime::CustomOp> ops_;  // a deque never moves its elements
  std::unique_ptr<OrtCustomOpDomain, decltype(OrtApi::ReleaseCustomOpDomain)> domain_;
};

// One for each ONNX Runtime in the process: Python's and a C++ program's may differ.
Registry& registry_of(const OrtApi& api) {
  static std::mutex mutex;
  static std::map<const OrtApi*, Registry> registries;
  const std::lock_guard lock(mutex);
  return registries.try_emplace(&api, api).first->second;
}

}  // namespace

extern "C" HSM_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // No API table means no way to make an OrtStatus of our own: the oldest one has always been able to.
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "libhsm_onnxruntime needs ONNX Runtime 1.21 or newer; install a newer onnxruntime");
  }
  return hsm::onnxruntime::guarded(
      *api, [&]() -> OrtStatus* { return api->AddCustomOpDomain(options, registry_of(*api).domain()); });
}
