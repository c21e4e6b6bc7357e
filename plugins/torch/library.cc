// The functions of libhsm_kernels.so.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cpu/kernels.h"
#include "hsm_operators/common/definition.h"
#include "hsm_operators/common/description.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/types.h"
#include "torch/hsm_kernels.h"
#include "torch/team.h"

namespace hsm::torch {
namespace {

thread_local std::string message;

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

const std::vector<Entry>& entries() {
  static const std::vector<Entry> the_entries(opset::operators().begin(), opset::operators().end());
  return the_entries;
}

const Entry* entry(std::int32_t index) {
  const auto at = static_cast<std::size_t>(index);
  return at < entries().size() ? &entries()[at] : nullptr;
}

std::int32_t refused(std::string text) {
  message = std::move(text);
  return HSM_KERNELS_REFUSED;
}

std::vector<opset::Shape> read_shapes(const opset::Operator& op, const std::int64_t* sizes) {
  std::vector<opset::Shape> shapes;
  shapes.reserve(op.inputs.size());
  for (const opset::Port& port : op.inputs) {
    shapes.emplace_back(sizes, sizes + port.dims.size());
    sizes += port.dims.size();
  }
  return shapes;
}

std::vector<opset::AttributeValue> read_attributes(const opset::Operator& op, const std::int64_t* numbers) {
  std::vector<opset::AttributeValue> values;
  values.reserve(op.attributes.size());
  for (const opset::Attribute& attribute : op.attributes) {
    const std::int64_t count = *numbers++;
    opset::AttributeValue& value = values.emplace_back(opset::AttributeValue{attribute.name, {}});
    if (attribute.type == opset::AttributeType::kFloat) {
      for (std::int64_t i = 0; i < count; ++i) {
        value.floats.push_back(static_cast<float>(std::bit_cast<double>(numbers[i])));
      }
    } else {
      value.ints.assign(numbers, numbers + count);
    }
    numbers += count;
  }
  return values;
}

std::int32_t run(std::int32_t index, std::int32_t kind, std::int32_t type, const std::int64_t* sizes,
                 const std::int64_t* numbers, const void* const* input_pointers, void* const* output_pointers,
                 hsm_kernels_parallel parallel, std::int32_t threads) {
  const Entry* found = entry(index);
  if (found == nullptr) return refused("there is no operator of index " + std::to_string(index));
  const opset::Operator& op = found->op;
  if (!found->has(kind)) return refused(std::string(op.name) + " has no kernel of kind " + std::to_string(kind));
  if (type < HSM_KERNELS_FLOAT32 || type > HSM_KERNELS_BFLOAT16) {
    return refused(std::string(op.name) + " has no type of number " + std::to_string(type));
  }
  const std::vector<opset::Shape> shapes = read_shapes(op, sizes);
  const std::vector<opset::AttributeValue> attributes = read_attributes(op, numbers);
  const std::span<const void* const> inputs(input_pointers, op.inputs.size());
  const std::span<void* const> outputs(output_pointers, op.outputs.size());
  std::vector<opset::Shape> output_shapes;
  if (auto problem = opset::check_attributes(op, attributes)) return refused(std::move(*problem));
  if (auto problem = opset::infer_shapes(op, attributes, shapes, output_shapes)) return refused(std::move(*problem));
  if (auto problem = opset::check_rows(op, attributes, shapes, inputs)) return refused(std::move(*problem));
  const Call call{static_cast<DType>(type), attributes, shapes, inputs, outputs};
  if (kind == HSM_KERNELS_NAIVE) {
    found->naive->run(call);
  } else {
    Team team(parallel, threads);
    found->fast->run(call, team.parallel_for());
  }
  return HSM_KERNELS_OK;
}

}  // namespace
}  // namespace hsm::torch

static_assert(HSM_KERNELS_FLOAT32 == static_cast<int>(hsm::DType::kFloat32) &&
              HSM_KERNELS_FLOAT16 == static_cast<int>(hsm::DType::kFloat16) &&
              HSM_KERNELS_BFLOAT16 == static_cast<int>(hsm::DType::kBFloat16));

const char* hsm_library_operators() {
  return hsm::opset::described_library([](const hsm::opset::Operator& op) {
    return hsm::cpu::kernel_of(op) != nullptr || hsm::definition_of(op) != nullptr;
  });
}

std::int32_t hsm_kernels_version() { return HSM_KERNELS_VERSION; }

std::int32_t hsm_kernels_count() { return static_cast<std::int32_t>(hsm::torch::entries().size()); }

const char* hsm_kernels_signature(std::int32_t index) {
  const auto* found = hsm::torch::entry(index);
  return found == nullptr ? nullptr : found->signature.c_str();
}

std::int32_t hsm_kernels_has(std::int32_t index, std::int32_t kind) {
  const auto* found = hsm::torch::entry(index);
  return found != nullptr && found->has(kind) ? 1 : 0;
}

std::int32_t hsm_kernels_run(std::int32_t index, std::int32_t kind, std::int32_t type, const std::int64_t* sizes,
                             const std::int64_t* attributes, const void* const* inputs, void* const* outputs,
                             hsm_kernels_parallel parallel, std::int32_t threads) {
  try {
    return hsm::torch::run(index, kind, type, sizes, attributes, inputs, outputs, parallel, threads);
  } catch (const std::bad_alloc&) {
    hsm::torch::message = "not enough memory";
  } catch (const std::exception& error) {
    hsm::torch::message = error.what();
  } catch (...) {
    hsm::torch::message = "unknown error";
  }
  return HSM_KERNELS_FAILED;
}

const char* hsm_kernels_message() { return hsm::torch::message.c_str(); }
