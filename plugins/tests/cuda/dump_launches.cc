// Prints, as JSON, what the launchers choose: for the typical calls of the families' cases.py, on each architecture,
// with each tactic, the kernels with their grids, blocks and dynamic shared memory. Nothing is executed: the host shim
// only logs.
//
// With the argument - it answers what standard input asks instead, for the default tactic, one call a line:
//
//   OPERATOR TYPE SM MULTIPROCESSORS SHARED_BYTES NAME=SIZE ... NAME=ATTRIBUTE[,...] ...
//
// Read by tools/cuda_report.py and tools/launch_plans.py.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/opset.h"
#include "simt.h"
#include "tests/cases.h"

namespace {

using hsm::Call;
using hsm::DType;
using hsm::cuda::Device;
using hsm::opset::ElementType;
using hsm::opset::Operator;
using hsm::testing::Case;
using hsm::testing::shape_of;

// Multiprocessors and shared memory of a widespread part of each architecture (NVIDIA's data sheets and the CUDA
// programming guide): T4, A100, RTX 3090, RTX 4090, H100 SXM, B200, RTX 5090.
constexpr Device kDevices[] = {
    {75, 40, 64 * 1024},   {80, 108, 163 * 1024},  {86, 82, 99 * 1024},   {89, 128, 99 * 1024},
    {90, 132, 227 * 1024}, {100, 148, 227 * 1024}, {120, 170, 99 * 1024},
};

constexpr std::string_view kTypeNames[] = {"fp32", "fp16", "bf16"};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

std::int64_t bytes_of(const hsm::opset::Port& port, const Case& item, DType type) {
  std::int64_t bytes = 4;
  if (port.type == ElementType::kT) bytes = static_cast<std::int64_t>(hsm::size_of(type));
  if (port.type == ElementType::kInt64) bytes = 8;
  if (port.type == ElementType::kBool || port.type == ElementType::kUInt8) bytes = 1;
  for (const std::int64_t size : shape_of(port, item.sizes)) bytes *= size;
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

// Prints one line for each tactic that the device supports, or for the default one alone.
void dump(const Operator& op, const hsm::cuda::Kernels& kernels, const Case& item, std::size_t type,
          const Device& device, bool default_alone = false) {
  std::vector<hsm::opset::Shape> shapes;
  std::int64_t bytes = 0;
  for (const hsm::opset::Port& port : op.inputs) {
    shapes.push_back(shape_of(port, item.sizes));
    bytes += bytes_of(port, item, kTypes[type]);
  }
  for (const hsm::opset::Port& port : op.outputs) bytes += bytes_of(port, item, kTypes[type]);
  // Any address will do: nothing reads it. Aligned, as the device's allocations are; inputs and outputs apart.
  std::vector<const void*> inputs(op.inputs.size(), reinterpret_cast<const void*>(std::uintptr_t{1} << 20));
  std::vector<void*> outputs(op.outputs.size(), reinterpret_cast<void*>(std::uintptr_t{1} << 21));
  const Call call{kTypes[type], item.attributes, shapes, inputs, outputs};
  const int chosen = kernels.default_tactic(call, device);
  for (int tactic = 0; tactic < static_cast<int>(kernels.tactics().size()); ++tactic) {
    if ((default_alone && tactic != chosen) || !kernels.supports(call, tactic, device)) continue;
    hsm::simt::clear_launches();
    const int error = kernels.launch(call, tactic, device, reinterpret_cast<void*>(std::uintptr_t{1} << 22), nullptr);
    std::printf(
        "{\"operator\": \"%s\", \"case\": \"%s\", \"type\": \"%s\", \"sm\": %d, \"tactic\": \"%s\", \"default\": %s, "
        "\"error\": %d, \"flops\": %.0f, \"bytes\": %lld, \"workspace\": %zu, \"launches\": %s}\n",
        op.name.data(), item.label.data(), kTypeNames[type].data(), device.sm,
        std::string(kernels.tactics()[static_cast<std::size_t>(tactic)]).c_str(), tactic == chosen ? "true" : "false",
        error, hsm::testing::flops_of(op, item.attributes, item.sizes), static_cast<long long>(bytes),
        kernels.workspace(call, tactic, device), launches_json().c_str());
  }
}

// Numbers with a comma between them.
std::vector<std::int64_t> numbers_of(const std::string& text) {
  std::vector<std::int64_t> numbers;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) numbers.push_back(std::stoll(part));
  return numbers;
}

// Answers one line of standard input; throws std::runtime_error for one that asks for nothing known.
void answer(const std::string& line) {
  static std::set<std::string> names;  // what the views of a case point into
  std::istringstream stream(line);
  std::string name;
  std::string type_name;
  Device device;
  stream >> name >> type_name >> device.sm >> device.multiprocessors >> device.shared_memory_per_block;
  const std::size_t type = std::ranges::find(kTypeNames, type_name) - std::begin(kTypeNames);
  for (const Operator& op : hsm::opset::operators()) {
    const hsm::cuda::Kernels* kernels = op.name == name ? hsm::cuda::kernels_of(op) : nullptr;
    if (kernels == nullptr || type == std::size(kTypes) || !stream) continue;
    const std::size_t start = static_cast<std::size_t>(stream.tellg());
    Case item{.domain = op.domain, .name = op.name, .label = *names.insert(line.substr(start + 1)).first};
    for (std::string part; stream >> part;) {
      const std::size_t equal = part.find('=');
      if (equal == std::string::npos) throw std::runtime_error(part + " is not NAME=NUMBER in: " + line);
      const std::string_view key = *names.insert(part.substr(0, equal)).first;
      const std::vector<std::int64_t> numbers = numbers_of(part.substr(equal + 1));
      const auto is_key = [&](const auto& attribute) { return attribute.name == key; };
      if (std::ranges::any_of(op.attributes, is_key)) {
        item.attributes.push_back({.name = key, .ints = numbers});
      } else {
        item.sizes[key] = numbers.at(0);
      }
    }
    for (const hsm::opset::Dimension& dimension : op.dimensions) item.sizes.try_emplace(dimension.name, 0);
    hsm::testing::adjust(op, item.attributes, item.sizes);  // sizes that follow from others may be left out
    for (const auto& [missing, size] : item.sizes) {
      if (size < 1) throw std::runtime_error("no size " + std::string(missing) + " in: " + line);
    }
    if (item.attributes.size() != op.attributes.size()) throw std::runtime_error("an attribute is missing in: " + line);
    hsm::simt::settings().shared_memory_limit = device.shared_memory_per_block;
    dump(op, *kernels, item, type, device, true);
    return;
  }
  throw std::runtime_error("no operator with CUDA kernels, or no type, in: " + line);
}

// What the launchers choose for the typical calls.
void dump_typical() {
  for (const Device& device : kDevices) {
    hsm::simt::settings().shared_memory_limit = device.shared_memory_per_block;
    for (const Operator& op : hsm::opset::operators()) {
      const hsm::cuda::Kernels* kernels = hsm::cuda::kernels_of(op);
      for (const Case& item : hsm::testing::typical_cases()) {
        if (kernels == nullptr || item.name != op.name || item.domain != op.domain) continue;
        for (std::size_t type = 0; type < std::size(kTypes); ++type) dump(op, *kernels, item, type, device);
      }
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  hsm::simt::settings().execute = false;
  if (count != 2 || std::string_view(arguments[1]) != "-") {
    dump_typical();
    return 0;
  }
  try {
    for (std::string line; std::getline(std::cin, line);) answer(line);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
