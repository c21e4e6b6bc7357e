// The functions of libhsm_kernels.so.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cpu/kernels.h"
#include "hsm_operators/common/definition.h"
#include "hsm_operators/common/description.h"
#include "hsm_operators/common/opset.h"
#include "torch/entries.h"
#include "torch/hsm_kernels.h"
#include "torch/request.h"
#include "torch/team.h"

namespace hsm::torch {
namespace {

// One operator as this library runs it.
struct Entry {
  explicit Entry(const opset::Operator& own_op)
      : op(own_op), signature(opset::described(own_op)), fast(cpu::kernel_of(own_op)), naive(definition_of(own_op)) {}

  bool has(std::int32_t kind) const {
    return kind == HSM_KERNELS_FAST ? fast != nullptr : kind == HSM_KERNELS_NAIVE && naive != nullptr;
  }

  const opset::Operator& op;
  std::string signature;
  const cpu::Kernel* fast;
  const Definition* naive;
};

std::int32_t run(const Entry& found, std::int32_t kind, std::int32_t type, const std::int64_t* sizes,
                 const std::int64_t* numbers, const void* const* input_pointers, void* const* output_pointers,
                 hsm_kernels_parallel parallel, std::int32_t threads) {
  const opset::Operator& op = found.op;
  if (!found.has(kind)) return refused(std::string(op.name) + " has no kernel of kind " + std::to_string(kind));
  Request request(op, type, sizes, numbers);
  if (request.problem) return refused(std::move(*request.problem));
  const std::span<const void* const> inputs(input_pointers, op.inputs.size());
  const std::span<void* const> outputs(output_pointers, op.outputs.size());
  if (auto problem = opset::check_rows(op, request.attributes, request.shapes, inputs)) {
    return refused(std::move(*problem));
  }
  const Call call{request.type, request.attributes, request.shapes, inputs, outputs};
  if (kind == HSM_KERNELS_NAIVE) {
    found.naive->run(call);
  } else {
    Team team(parallel, threads);
    found.fast->run(call, team.parallel_for());
  }
  return HSM_KERNELS_OK;
}

}  // namespace
}  // namespace hsm::torch

const char* hsm_library_operators() {
  return hsm::opset::described_library([](const hsm::opset::Operator& op) {
    return hsm::cpu::kernel_of(op) != nullptr || hsm::definition_of(op) != nullptr;
  });
}

std::int32_t hsm_kernels_version() { return HSM_KERNELS_VERSION; }

std::int32_t hsm_kernels_count() { return static_cast<std::int32_t>(hsm::torch::entries<hsm::torch::Entry>().size()); }

const char* hsm_kernels_signature(std::int32_t index) {
  const auto* found = hsm::torch::entry_at<hsm::torch::Entry>(index);
  return found == nullptr ? nullptr : found->signature.c_str();
}

std::int32_t hsm_kernels_has(std::int32_t index, std::int32_t kind) {
  const auto* found = hsm::torch::entry_at<hsm::torch::Entry>(index);
  return found != nullptr && found->has(kind) ? 1 : 0;
}

std::int32_t hsm_kernels_run(std::int32_t index, std::int32_t kind, std::int32_t type, const std::int64_t* sizes,
                             const std::int64_t* attributes, const void* const* inputs, void* const* outputs,
                             hsm_kernels_parallel parallel, std::int32_t threads) {
  return hsm::torch::with_entry<hsm::torch::Entry>(index, [&](const hsm::torch::Entry& found) {
    return hsm::torch::run(found, kind, type, sizes, attributes, inputs, outputs, parallel, threads);
  });
}

const char* hsm_kernels_message() { return hsm::torch::message().c_str(); }
