// Entry point of a custom-op library: registers every operator of the table that has a kernel, for every element type.
#include <onnxruntime_c_api.h>

#include <charconv>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hsm_operators/common/description.h"
#include "hsm_operators/common/opset.h"
#include "onnxruntime/adapter.h"
#include "onnxruntime/kernels.h"
#include "onnxruntime/status.h"

#if defined(_WIN32)
#define HSM_EXPORT __declspec(dllexport)
#else
#define HSM_EXPORT __attribute__((visibility("default")))
#endif

namespace {

using namespace std::string_view_literals;

template <typename T>
using Handle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

// Has ONNX Runtime take in `domain`. It keeps one table of all the process' domains and writes to it, without a lock,
// when it makes the first session that knows a domain: two such sessions made at the same time, in two threads, fail or
// worse. The session below, made while others wait for their registry, is that first one.
void introduce(const OrtApi& api, OrtCustomOpDomain* domain) {
  using hsm::onnxruntime::require;
  // ModelProto: IR version 8, operators of ONNX 17, a graph "g" that returns its input, a float "x".
  constexpr std::string_view kSmallestModel =
      "\x08\x08\x42\x04\x0a\x00\x10\x11\x3a\x19\x12\x01g"
      "\x5a\x09\x0a\x01x\x12\x04\x0a\x02\x08\x01\x62\x09\x0a\x01x\x12\x04\x0a\x02\x08\x01"sv;
  OrtEnv* env = nullptr;  // the process' own, where there is one
  require(api.CreateEnv(ORT_LOGGING_LEVEL_WARNING, "hsm", &env));
  const Handle<OrtEnv> env_owner(env, api.ReleaseEnv);
  OrtSessionOptions* options = nullptr;
  require(api.CreateSessionOptions(&options));
  const Handle<OrtSessionOptions> options_owner(options, api.ReleaseSessionOptions);
  require(api.SetIntraOpNumThreads(options, 1));
  require(api.AddCustomOpDomain(options, domain));
  OrtSession* session = nullptr;
  require(api.CreateSessionFromArray(env, kSmallestModel.data(), kSmallestModel.size(), options, &session));
  api.ReleaseSession(session);
}

// The types T that an operator is registered for: one where no input has it.
std::vector<hsm::DType> types_of(const hsm::opset::Operator& op) {
  if (hsm::opset::first_t(op) == op.inputs.size()) return {hsm::DType::kFloat32};
  return {hsm::DType::kFloat32, hsm::DType::kFloat16, hsm::DType::kBFloat16};
}

// What sessions point to until the library is unloaded.
class Registry {
 public:
  Registry(const OrtApi& api, std::size_t packed_limit) {
    for (const hsm::opset::Operator& op : hsm::opset::operators()) {
      if (!hsm::onnxruntime::has_kernel(op)) continue;  // ONNX Runtime runs its body
      for (const hsm::DType type : types_of(op)) {
        hsm::onnxruntime::require(
            api.CustomOpDomain_Add(domain_of(api, op.domain), &ops_.emplace_back(api, op, type, packed_limit)));
      }
    }
    for (const auto& [name, domain] : domains_) introduce(api, domain.get());
  }

  void add_to(const OrtApi& api, OrtSessionOptions* options) const {
    for (const auto& [name, domain] : domains_) {
      hsm::onnxruntime::require(api.AddCustomOpDomain(options, domain.get()));
    }
  }

 private:
  OrtCustomOpDomain* domain_of(const OrtApi& api, std::string_view name) {
    if (const auto found = domains_.find(name); found != domains_.end()) return found->second.get();
    OrtCustomOpDomain* domain = nullptr;
    hsm::onnxruntime::require(api.CreateCustomOpDomain(name.data(), &domain));
    return domains_.try_emplace(name, domain, api.ReleaseCustomOpDomain).first->second.get();
  }

  std::deque<hsm::onnxruntime::CustomOp> ops_;  // a deque never moves its elements
  std::map<std::string_view, Handle<OrtCustomOpDomain>> domains_;
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

const char* hsm_library_operators() { return hsm::opset::described_library(hsm::onnxruntime::has_kernel); }

extern "C" HSM_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // No API table means no way to make an OrtStatus of our own: the oldest one has always been able to.
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "this library of operators needs ONNX Runtime 1.21 or newer; install a newer onnxruntime");
  }
  return hsm::onnxruntime::guarded(*api, [&]() -> OrtStatus* {
    registry_of(*api, packed_limit_of(*api, options)).add_to(*api, options);
    return nullptr;
  });
}
