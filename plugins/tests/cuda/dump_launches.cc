// Prints, as JSON, what the launchers choose: for typical calls of every operator, on each architecture, with each
// tactic, the kernels with their grids, blocks and dynamic shared memory. Nothing is executed: the host shim only logs.
//
// Read by tools/cuda_report.py.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/opset.h"
#include "simt.h"

namespace {

using hsm::Call;
using hsm::DType;
using hsm::cuda::Device;
using hsm::opset::ElementType;
using hsm::opset::Operator;

struct Case {
  std::string_view op;
  std::string_view label;
  std::map<std::string_view, std::int64_t> sizes;  // by the names of the operator table
  std::vector<hsm::opset::AttributeValue> attributes;
};

std::map<std::string_view, std::int64_t> taylor_sizes(std::int64_t batch, std::int64_t length, std::int64_t heads,
                                                      std::int64_t d) {
  return {{"B", batch}, {"T", length}, {"H", heads}, {"d", d}, {"e", d}, {"F", hsm::taylor_features(d)}};
}

std::map<std::string_view, std::int64_t> expert_sizes(std::int64_t length) {
  return {{"B", 1}, {"T", length}, {"D", 512}, {"H", 8}, {"E", 8}, {"f", 64}};
}

std::vector<Case> cases() {
  const std::vector<hsm::opset::AttributeValue> shifts = {{"shifts", {1, 2, 4, 8}}};
  const std::vector<hsm::opset::AttributeValue> norms = {{"normalize", {1}}, {"output_norm", {1}}};
  const std::vector<hsm::opset::AttributeValue> norm = {{"normalize", {1}}};
  const std::vector<hsm::opset::AttributeValue> active = {{"k", {2}}};
  const std::map<std::string_view, std::int64_t> prefill = {{"B", 8}, {"T", 2048}, {"D", 1024}, {"R", 8}};
  const std::map<std::string_view, std::int64_t> step = {{"B", 8}, {"T", 1}, {"D", 1024}, {"R", 8}};
  return {
      {"TokenShift", "B=8 T=2048 D=1024", prefill, shifts},
      {"ShiftMix", "B=8 T=2048 D=1024", prefill, shifts},
      {"TokenShiftCached", "B=8 T=1 D=1024", step, shifts},
      {"ShiftMixCached", "B=8 T=2048 D=1024", prefill, shifts},
      {"ShiftMixCached", "B=8 T=1 D=1024", step, shifts},
      {"TaylorShift", "B=1 T=128 H=8 d=64", taylor_sizes(1, 128, 8, 64), norms},
      {"TaylorShift", "B=1 T=8192 H=8 d=16", taylor_sizes(1, 8192, 8, 16), norms},
      {"TaylorShift", "B=1 T=8192 H=8 d=32", taylor_sizes(1, 8192, 8, 32), norms},
      {"TaylorShift", "B=1 T=8192 H=8 d=64", taylor_sizes(1, 8192, 8, 64), norms},
      {"TaylorShift", "B=1 T=8192 H=4 d=128", taylor_sizes(1, 8192, 4, 128), norms},
      {"TaylorShift", "B=1 T=2048 H=2 d=256", taylor_sizes(1, 2048, 2, 256), norms},
      {"TaylorShiftMasked", "B=8 T=2048 H=8 d=32", taylor_sizes(8, 2048, 8, 32), norms},
      {"CausalTaylorShift", "B=1 T=2048 H=8 d=32", taylor_sizes(1, 2048, 8, 32), norm},
      {"CausalTaylorShift", "B=1 T=2048 H=8 d=64", taylor_sizes(1, 2048, 8, 64), norm},
      {"CausalTaylorShift", "B=8 T=1 H=8 d=32", taylor_sizes(8, 1, 8, 32), norm},
      {"CausalTaylorShift", "B=1 T=256 H=2 d=256", taylor_sizes(1, 256, 2, 256), norm},
      {"ExpertMatMul", "T=2048 D=512 H=8 E=8 f=64 k=2", expert_sizes(2048), active},
      {"ExpertMatMul", "T=1 D=512 H=8 E=8 f=64 k=2", expert_sizes(1), active},
      {"ExpertMatMulSum", "T=2048 D=512 H=8 E=8 f=64 k=2", expert_sizes(2048), active},
      {"ExpertMatMulSum", "T=1 D=512 H=8 E=8 f=64 k=2", expert_sizes(1), active},
  };
}

// Multiprocessors and shared memory of a widespread part of each architecture (NVIDIA's data sheets and the CUDA
// programming guide): T4, A100, RTX 3090, RTX 4090, H100 SXM, B200, RTX 5090.
constexpr Device kDevices[] = {
    {75, 40, 64 * 1024},   {80, 108, 163 * 1024},  {86, 82, 99 * 1024},   {89, 128, 99 * 1024},
    {90, 132, 227 * 1024}, {100, 148, 227 * 1024}, {120, 170, 99 * 1024},
};

constexpr std::string_view kTypeNames[] = {"fp32", "fp16", "bf16"};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

hsm::opset::Shape shape_of(const hsm::opset::Port& port, const Case& item) {
  hsm::opset::Shape shape;
  for (const hsm::opset::Dimension* dim : port.dims) shape.push_back(item.sizes.at(dim->name));
  return shape;
}

std::int64_t bytes_of(const hsm::opset::Port& port, const Case& item, DType type) {
  std::int64_t bytes = 4;
  if (port.type == ElementType::kT) bytes = static_cast<std::int64_t>(hsm::size_of(type));
  if (port.type == ElementType::kInt64) bytes = 8;
  for (const std::int64_t size : shape_of(port, item)) bytes *= size;
  return bytes;
}

std::string triple(const dim3& value) {
  return "[" + std::to_string(value.x) + ", " + std::to_string(value.y) + ", " + std::to_string(value.z) + "]";
}

std::string launches_json() {
  std::string text;
  for (const hsm::simt::Launch& launch : hsm::simt::launches()) {
    text += (text.empty() ? "" : ", ") + ("{\"kernel\": \"" + launch.kernel + "\", \"grid\": ") + triple(launch.grid) +
            ", \"block\": " + triple(launch.block) + ", \"shared\": " + std::to_string(launch.shared_bytes) + "}";
  }
  return "[" + text + "]";
}

// Prints one line for each tactic that the device supports.
void dump(const Operator& op, const Case& item, std::size_t type, const Device& device) {
  std::vector<hsm::opset::Shape> shapes;
  std::int64_t bytes = 0;
  for (const hsm::opset::Port& port : op.inputs) {
    shapes.push_back(shape_of(port, item));
    bytes += bytes_of(port, item, kTypes[type]);
  }
  for (const hsm::opset::Port& port : op.outputs) bytes += bytes_of(port, item, kTypes[type]);
  // Any address will do: nothing reads it. Aligned, as the device's allocations are; inputs and outputs apart.
  std::vector<const void*> inputs(op.inputs.size(), reinterpret_cast<const void*>(std::uintptr_t{1} << 20));
  std::vector<void*> outputs(op.outputs.size(), reinterpret_cast<void*>(std::uintptr_t{1} << 21));
  const Call call{kTypes[type], item.attributes, shapes, inputs, outputs};
  const hsm::cuda::Kernels& kernels = *hsm::cuda::kernels_of(op);
  const int chosen = kernels.default_tactic(call, device);
  for (int tactic = 0; tactic < static_cast<int>(kernels.tactics().size()); ++tactic) {
    if (!kernels.supports(call, tactic, device)) continue;
    hsm::simt::clear_launches();
    const int error = kernels.launch(call, tactic, device, reinterpret_cast<void*>(std::uintptr_t{1} << 22), nullptr);
    std::printf(
        "{\"operator\": \"%s\", \"case\": \"%s\", \"type\": \"%s\", \"sm\": %d, \"tactic\": \"%s\", \"default\": %s, "
        "\"error\": %d, \"bytes\": %lld, \"workspace\": %zu, \"launches\": %s}\n",
        op.name.data(), item.label.data(), kTypeNames[type].data(), device.sm,
        std::string(kernels.tactics()[static_cast<std::size_t>(tactic)]).c_str(), tactic == chosen ? "true" : "false",
        error, static_cast<long long>(bytes), kernels.workspace(call, tactic, device), launches_json().c_str());
  }
}

}  // namespace

int main() {
  for (const Device& device : kDevices) {
    hsm::simt::settings().execute = false;
    hsm::simt::settings().shared_memory_limit = device.shared_memory_per_block;
    for (const Case& item : cases()) {
      for (std::size_t type = 0; type < std::size(kTypes); ++type) {
        dump(*hsm::opset::find(item.op), item, type, device);
      }
    }
  }
}
