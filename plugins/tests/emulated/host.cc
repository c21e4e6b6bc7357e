// CUDA kernels on the host: the device is the shim's, and HSM_EMULATED_SM and HSM_EMULATED_TACTIC choose what is tried.
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "hsm_operators/common/cuda/current_device.h"
#include "onnxruntime/cuda/target.h"
#include "simt.h"

namespace hsm {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

}  // namespace

std::optional<cuda::Device> cuda::current_device() noexcept {
  const std::string_view sm = environment("HSM_EMULATED_SM");
  Device device{.sm = 86, .multiprocessors = 4, .shared_memory_per_block = simt::settings().shared_memory_limit};
  if (!sm.empty()) device.sm = std::atoi(sm.data());
  return device;
}

namespace onnxruntime {

// The tensors are in the host's memory.
const char* execution_provider() { return nullptr; }

const char* memory_name() { return "Cpu"; }

cuda::Stream stream_of(const Execution& /*execution*/) { return nullptr; }

// The tactic named in the environment for the operators that have it and can use it, else the launcher's own choice.
int tactic_of(const cuda::Kernels& kernels, const Call& call, const cuda::Device& device) {
  const auto names = kernels.tactics();
  for (int tactic = 0; tactic < static_cast<int>(names.size()); ++tactic) {
    const bool wanted = names[static_cast<std::size_t>(tactic)] == environment("HSM_EMULATED_TACTIC");
    if (wanted && kernels.supports(call, tactic, device)) return tactic;
  }
  return kernels.default_tactic(call, device);
}

std::string describe(int error) { return "error " + std::to_string(error) + ": " + simt::last_error(); }

}  // namespace onnxruntime
}  // namespace hsm
