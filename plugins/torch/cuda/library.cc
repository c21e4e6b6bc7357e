// The functions of libhsm_kernels_cuda.so.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cuda/current_device.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/cuda/refusal.h"
#include "hsm_operators/common/description.h"
#include "torch/cuda/target.h"
#include "torch/entries.h"
#include "torch/hsm_kernels_cuda.h"
#include "torch/request.h"

namespace hsm::torch {
namespace {

// One operator as this library runs it.
struct Entry {
  explicit Entry(const opset::Operator& own_op)
      : op(own_op), signature(opset::described(own_op)), kernels(cuda::kernels_of(own_op)) {
    if (kernels == nullptr) return;
    for (const std::string_view name : kernels->tactics()) tactics.append(tactics.empty() ? "" : ",").append(name);
  }

  const opset::Operator& op;
  std::string signature;
  const cuda::Kernels* kernels;
  std::string tactics;
};

// Runs body(entry, request, device) on that device, once the call is known to be one.
template <typename Body>
std::int32_t with_call(std::int32_t index, std::int32_t type, const std::int64_t* sizes, const std::int64_t* numbers,
                       std::int32_t device, Body&& body) noexcept {
  return with_entry<Entry>(index, [&](const Entry& found) {
    if (found.kernels == nullptr) return refused(std::string(found.op.name) + " has no CUDA kernel");
    Request request(found.op, type, sizes, numbers);
    if (request.problem) return refused(std::move(*request.problem));
    if (const int error = use_device(device); error != 0) {
      return failed("GPU " + std::to_string(device) + ": " + describe(error));
    }
    const std::optional<cuda::Device> known = cuda::current_device();
    if (!known) return failed("there is no GPU " + std::to_string(device));
    return body(found, request, *known);
  });
}

std::int32_t unsupported(const Entry& entry, const Call& call, const cuda::Device& device) {
  return refused(std::string(entry.op.name) + ": " + cuda::refusal(entry.op, call, device));
}

}  // namespace
}  // namespace hsm::torch

const char* hsm_library_operators() {
  return hsm::opset::described_library(
      [](const hsm::opset::Operator& op) { return hsm::cuda::kernels_of(op) != nullptr; });
}

std::int32_t hsm_kernels_version() { return HSM_KERNELS_VERSION; }

std::int32_t hsm_kernels_count() { return static_cast<std::int32_t>(hsm::torch::entries<hsm::torch::Entry>().size()); }

const char* hsm_kernels_signature(std::int32_t index) {
  const auto* found = hsm::torch::entry_at<hsm::torch::Entry>(index);
  return found == nullptr ? nullptr : found->signature.c_str();
}

std::int32_t hsm_kernels_has(std::int32_t index, std::int32_t kind) {
  const auto* found = hsm::torch::entry_at<hsm::torch::Entry>(index);
  return found != nullptr && kind == HSM_KERNELS_FAST && found->kernels != nullptr ? 1 : 0;
}

std::int32_t hsm_kernels_cuda_plan(std::int32_t index, std::int32_t type, const std::int64_t* sizes,
                                   const std::int64_t* attributes, std::int32_t device, std::int32_t* tactic,
                                   std::int64_t* workspace) {
  return hsm::torch::with_call(
      index, type, sizes, attributes, device,
      [&](const hsm::torch::Entry& found, const hsm::torch::Request& request, const hsm::cuda::Device& known) {
        // Whether addresses are aligned is not known here, and decides about nothing.
        const std::vector<const void*> inputs(found.op.inputs.size());
        const std::vector<void*> outputs(found.op.outputs.size());
        const hsm::Call call{request.type, request.attributes, request.shapes, inputs, outputs};
        if (*tactic < 0) *tactic = found.kernels->default_tactic(call, known);
        if (!found.kernels->supports(call, *tactic, known)) return hsm::torch::unsupported(found, call, known);
        *workspace = static_cast<std::int64_t>(found.kernels->workspace(call, *tactic, known));
        return std::int32_t{HSM_KERNELS_OK};
      });
}

std::int32_t hsm_kernels_cuda_launch(std::int32_t index, std::int32_t type, const std::int64_t* sizes,
                                     const std::int64_t* attributes, std::int32_t device, std::int32_t tactic,
                                     const void* const* inputs, void* const* outputs, void* workspace, void* stream) {
  return hsm::torch::with_call(
      index, type, sizes, attributes, device,
      [&](const hsm::torch::Entry& found, const hsm::torch::Request& request, const hsm::cuda::Device& known) {
        const hsm::Call call{request.type, request.attributes, request.shapes,
                             std::span(inputs, found.op.inputs.size()), std::span(outputs, found.op.outputs.size())};
        if (!found.kernels->supports(call, tactic, known)) return hsm::torch::unsupported(found, call, known);
        const int error = found.kernels->launch(call, tactic, known, workspace, stream);
        if (error == 0) return std::int32_t{HSM_KERNELS_OK};
        return hsm::torch::failed(std::string(found.op.name) + ": launching " +
                                  std::string(found.kernels->tactics()[static_cast<std::size_t>(tactic)]) +
                                  " failed: " + hsm::torch::describe(error));
      });
}

const char* hsm_kernels_cuda_tactics(std::int32_t index) {
  const auto* found = hsm::torch::entry_at<hsm::torch::Entry>(index);
  return found == nullptr ? nullptr : found->tactics.c_str();
}

const char* hsm_kernels_message() { return hsm::torch::message().c_str(); }
