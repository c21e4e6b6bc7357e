// Entry point of libhsm_onnxruntime.so: registers every operator of the table, for every element type.
#include <onnxruntime_c_api.h>

#include <deque>
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

// Sessions point into this list until the library is unloaded; a deque never moves its elements.
std::deque<hsm::onnxruntime::CustomOp>& custom_ops(const OrtApi& api) {
  static std::deque<hsm::onnxruntime::CustomOp> ops;
  static std::once_flag once;
  std::call_once(once, [&] {
    for (const hsm::opset::Operator& op : hsm::opset::operators()) {
      for (const hsm::DType type : {hsm::DType::kFloat32, hsm::DType::kFloat16, hsm::DType::kBFloat16}) {
        ops.emplace_back(api, op, type);
      }
    }
  });
  return ops;
}

}  // namespace

extern "C" HSM_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // No API table means no way to make an OrtStatus of our own: the oldest one has always been able to.
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "libhsm_onnxruntime needs ONNX Runtime 1.21 or newer; install a newer onnxruntime");
  }
  return hsm::onnxruntime::guarded(*api, [&]() -> OrtStatus* {
    OrtCustomOpDomain* domain = nullptr;
    hsm::onnxruntime::require(api->CreateCustomOpDomain(hsm::opset::kDomain.data(), &domain));
    for (hsm::onnxruntime::CustomOp& op : custom_ops(*api)) {
      hsm::onnxruntime::require(api->CustomOpDomain_Add(domain, &op));
    }
    return api->AddCustomOpDomain(options, domain);
  });
}
