#include "runtime/check.h"

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/dtypes.h"
#include "runtime/error.h"

namespace hsm::runtime {
namespace {

[[noreturn]] void refuse(const std::string& what) { fail(Code::kInvalidArgument, what); }

bool is_dense(const TensorView& view) {
  if (view.strides.empty()) return true;
  std::int64_t expected = 1;
  for (std::size_t i = view.shape.size(); i-- > 0;) {
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

// Sizes of the dimensions that have names, as the tensors seen so far have them.
class Sizes {
 public:
  // Whether a dimension may have this size.
  bool take(const Dimension& dimension, std::int64_t size) {
    if (const std::int64_t* fixed = std::get_if<std::int64_t>(&dimension)) return *fixed == size;
    const std::string& name = std::get<std::string>(dimension);
    for (const auto& [known, value] : known_) {
      if (*known == name) return value == size;
    }
    known_.emplace_back(&name, size);
    return true;
  }

 private:
  std::vector<std::pair<const std::string*, std::int64_t>> known_;
};

void check_device(const TensorInfo& info, const Device& found, const Device& device) {
  if (found.kind == Device::Kind::kCpu) return;
  if (found.kind != Device::Kind::kCuda) refuse("'" + info.name + "' is on a device of no known kind");
  if (device.kind == Device::Kind::kCpu) {
    refuse("'" + info.name + "' is not in CPU memory, where this back end runs; copy it there first");
  }
  if (found.index != device.index) {
    refuse("'" + info.name + "' is on GPU " + std::to_string(found.index) + ", but the session is on GPU " +
           std::to_string(device.index));
  }
}

void check_memory(const TensorInfo& info, const TensorView& view, const Device& device) {
  std::int64_t elements = 1;
  for (const std::int64_t size : view.shape) {
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements) || elements > std::int64_t{1} << 56) {
      refuse("'" + info.name + "' has the impossible shape " + to_text(view.shape));
    }
  }
  if (view.data == nullptr && elements > 0) refuse("'" + info.name + "' has no memory");
  if (!view.strides.empty() && view.strides.size() != view.shape.size()) {
    refuse("'" + info.name + "' has " + std::to_string(view.strides.size()) + " strides for " +
           std::to_string(view.shape.size()) + " dimensions");
  }
  if (!is_dense(view)) refuse("'" + info.name + "' is not dense; copy it into dense memory first");
  check_device(info, view.device, device);
}

void check_tensor(const TensorInfo& info, const TensorView& view, const Device& device, Sizes& sizes) {
  if (view.dtype != info.dtype) {
    refuse("'" + info.name + "' must be " + std::string(name_of(info.dtype)) + ", got " +
           std::string(name_of(view.dtype)));
  }
  bool fits = view.shape.size() == info.shape.size();
  for (std::size_t i = 0; fits && i < info.shape.size(); ++i) fits = sizes.take(info.shape[i], view.shape[i]);
  if (!fits) {
    refuse("'" + info.name + "' must have the shape " + to_text(info.shape) + ", got " + to_text(view.shape) +
           "; a name stands for the same size in all tensors of a call");
  }
  check_memory(info, view, device);
}

void check_side(const char* side, const std::vector<TensorInfo>& infos, std::span<const NamedTensor> tensors,
                const Device& device, Sizes& sizes) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string_view name = tensors[i].name;
    const auto same = [&](const auto& other) { return other.name == name; };
    const auto info = std::find_if(infos.begin(), infos.end(), same);
    if (info == infos.end()) {
      std::string known;
      for (const TensorInfo& other : infos) known += (known.empty() ? "" : ", ") + other.name;
      refuse("the graph has no " + std::string(side) + " '" + std::string(name) + "'; it has " + known);
    }
    if (std::any_of(tensors.begin(), tensors.begin() + static_cast<std::ptrdiff_t>(i), same)) {
      refuse("the " + std::string(side) + " '" + std::string(name) + "' is given twice");
    }
    check_tensor(*info, tensors[i].tensor, device, sizes);
  }
}

}  // namespace

void check_tensors(const Graph& graph, std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                   const Device& device) {
  Sizes sizes;
  check_side("input", graph.inputs, inputs, device, sizes);
  if (inputs.size() < graph.inputs.size()) {
    for (const TensorInfo& info : graph.inputs) {
      const auto same = [&](const NamedTensor& given) { return given.name == info.name; };
      if (std::none_of(inputs.begin(), inputs.end(), same)) refuse("the input '" + info.name + "' is missing");
    }
  }
  check_side("output", graph.outputs, outputs, device, sizes);
}

}  // namespace hsm::runtime
