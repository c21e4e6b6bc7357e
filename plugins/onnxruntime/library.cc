// Entry point of libhsm_onnxruntime.so: registers every operator of the table, for every element type.
#include <onnxruntime_c_api.h>

#include <charconv>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

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
  Registry(const OrtApi& api, std::size_t packed_limit) : domain_(nullptr, api.ReleaseCustomOpDomain) {
    OrtCustomOpDomain* domain = nullptr;
    hsm::onnxruntime::require(api.CreateCustomOpDomain(hsm::opset::kDomain.data(), &domain));
    domain_.reset(domain);
    for (const hsm::opset::Operator& op : hsm::opset::operators()) {
      for (const hsm::DType type : {hsm::DType::kFloat32, hsm::DType::kFloat16, hsm::DType::kBFloat16}) {
        hsm::onnxruntime::require(api.CustomOpDomain_Add(domain, &ops_.emplace_back(api, op, type, packed_limit)));
      }
    }
  }

  OrtCustomOpDomain* domain() { return domain_.get(); }

 private:
  std::deque<hsm::onnxruntime::CustomOp> ops_;  // a deque never moves its elements
  std::unique_ptr<OrtCustomOpDomain, decltype(OrtApi::ReleaseCustomOpDomain)> domain_;
};

// MiB that a node's packed copy of a constant weight may take; 0 packs nothing.
constexpr const char* kPackedLimitKey = "hsm.packed_weights_mib";
constexpr std::size_t kPackedLimit = 64;
constexpr std::size_t kLargestPackedLimit = std::size_t{1} << 40;

// Returns the limit in bytes.
std::size_t packed_limit_of(const OrtApi& api, const OrtSessionOptions* options) {
  using hsm::onnxruntime::require;
  int is_set = 0;
  require(api.HasSessionConfigEntry(options, kPackedLimitKey, &is_set));
  if (is_set == 0) return kPackedLimit << 20;
  std::size_t size = 0;
  require(api.GetSessionConfigEntry(options, kPackedLimitKey, nullptr, &size));
  std::string text(size, '\0');
  require(api.GetSessionConfigEntry(options, kPackedLimitKey, text.data(), &size));
  text.resize(size - 1);  // its terminating zero
  std::size_t limit = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (error != std::errc() || end != text.data() + text.size() || limit > kLargestPackedLimit) {
    throw std::invalid_argument(std::string("session configuration ") + kPackedLimitKey +
                                " must be a whole number of MiB, 0 to pack nothing, got '" + text + "'");
  }
  return limit << 20;
}

// One for each limit, and for each ONNX Runtime in the process: Python's and a C++ program's may differ.
Registry& registry_of(const OrtApi& api, std::size_t packed_limit) {
  static std::mutex mutex;
  static std::map<std::pair<const OrtApi*, std::size_t>, Registry> registries;
  const std::lock_guard lock(mutex);
  return registries.try_emplace({&api, packed_limit}, api, packed_limit).first->second;
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
    return api->AddCustomOpDomain(options, registry_of(*api, packed_limit_of(*api, options)).domain());
  });
}
