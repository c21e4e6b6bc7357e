#include "tensorrt/plan.h"

#include <algorithm>
#include <utility>

namespace hsm::tensorrt {
namespace {

constexpr int kMostMultiprocessors = 256;
constexpr std::size_t kKiB = 1024;

constexpr cuda::Device kReferenceDevices[] = {
    {75, kMostMultiprocessors, 64 * kKiB},  {80, kMostMultiprocessors, 163 * kKiB},
    {86, kMostMultiprocessors, 99 * kKiB},  {89, kMostMultiprocessors, 99 * kKiB},
    {90, kMostMultiprocessors, 227 * kKiB}, {100, kMostMultiprocessors, 227 * kKiB},
    {120, kMostMultiprocessors, 99 * kKiB},
};

int count(const cuda::Kernels& kernels) { return static_cast<int>(kernels.tactics().size()); }

}  // namespace

std::span<const cuda::Device> reference_devices() { return kReferenceDevices; }

std::optional<std::string> Sizes::assign(const opset::Operator& op, DType type,
                                         std::span<const opset::AttributeValue> attributes,
                                         std::vector<opset::Shape> inputs) {
  std::vector<opset::Shape> outputs;
  if (auto problem = opset::infer_shapes(op, attributes, inputs, outputs)) return problem;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (std::ranges::any_of(inputs[i], [](std::int64_t size) { return size < 0; })) {
      return std::string(op.name) + ": a size of input " + std::string(op.inputs[i].name) + " is not known";
    }
  }
  type_ = type;
  shapes_ = std::move(inputs);
  no_inputs_.assign(op.inputs.size(), nullptr);
  no_outputs_.assign(op.outputs.size(), nullptr);
  return std::nullopt;
}

std::size_t workspace_bound(const cuda::Kernels& kernels, const Call& call) {
  std::size_t bound = 0;
  for (const cuda::Device& device : reference_devices()) {
    // Those too that cannot run these sizes: they may run smaller ones.
    for (int tactic = 0; tactic < count(kernels); ++tactic) {
      bound = std::max(bound, kernels.workspace(call, tactic, device));
    }
  }
  return bound;
}

std::vector<int> tactics_to_time(const cuda::Kernels& kernels, std::span<const Call> profile,
                                 const cuda::Device& device) {
  const auto best = [&](const Call& call) { return kernels.default_tactic(call, device); };
  if (std::ranges::any_of(profile, [&](const Call& call) { return best(call) != best(profile.front()); })) return {};
  std::vector<int> tactics;
  for (int tactic = 0; tactic < count(kernels); ++tactic) {
    if (std::ranges::all_of(profile, [&](const Call& call) { return kernels.supports(call, tactic, device); })) {
      tactics.push_back(tactic);
    }
  }
  return tactics;
}

}  // namespace hsm::tensorrt
