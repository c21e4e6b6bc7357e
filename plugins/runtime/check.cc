#include "runtime/check.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
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

// The number of elements. Sizes may not multiply to more than anybody's memory holds, even where another one is 0.
std::int64_t count_elements(const TensorInfo& info, const TensorView& view) {
  std::int64_t elements = 1;
  bool is_empty = false;
  for (const std::int64_t size : view.shape) {
    is_empty = is_empty || size == 0;
    const std::int64_t factor = std::max<std::int64_t>(size, 1);
    if (size < 0 || __builtin_mul_overflow(elements, factor, &elements) || elements > std::int64_t{1} << 56) {
      refuse("'" + info.name + "' has the impossible shape " + to_text(view.shape));
    }
  }
  return is_empty ? 0 : elements;
}

void check_memory(const TensorInfo& info, const TensorView& view, const Device& device) {
  const std::int64_t elements = count_elements(info, view);
  if (view.data == nullptr && elements > 0) refuse("'" + info.name + "' has no memory");
  if (reinterpret_cast<std::uintptr_t>(view.data) % size_of(info.dtype) != 0) {
    refuse("the memory of '" + info.name + "' must start at a multiple of " + std::to_string(size_of(info.dtype)) +
           " bytes, the size of its elements");
  }
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

namespace {

// The whole numbers of a tensor of the CPU's, read where they are.
class Numbers {
 public:
  explicit Numbers(const TensorView& view) : data_(view.data), is_wide_(view.dtype == DType::kInt64) {
    for (const std::int64_t size : view.shape) size_ *= static_cast<std::size_t>(size);
  }
  std::size_t size() const { return size_; }
  std::int64_t operator[](std::size_t i) const {
    return is_wide_ ? static_cast<const std::int64_t*>(data_)[i] : static_cast<const std::int32_t*>(data_)[i];
  }

 private:
  const void* data_;
  bool is_wide_;
  std::size_t size_ = 1;
};

// Nothing for tensors of other types and devices.
std::optional<Numbers> numbers_of(const NamedTensor& named) {
  const TensorView& view = named.tensor;
  const bool is_whole = view.dtype == DType::kInt64 || view.dtype == DType::kInt32;
  if (!is_whole || view.device.kind != Device::Kind::kCpu) return std::nullopt;
  return Numbers(view);
}

const NamedTensor* find(std::span<const NamedTensor> tensors, std::string_view name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

// The size that a dimension has in this call.
std::optional<std::int64_t> size_of_dimension(const Graph& graph, std::span<const NamedTensor> inputs,
                                              std::string_view dimension) {
  for (const TensorInfo& info : graph.inputs) {
    const NamedTensor* given = find(inputs, info.name);
    if (given == nullptr) continue;
    for (std::size_t axis = 0; axis < info.shape.size(); ++axis) {
      const std::string* name = std::get_if<std::string>(&info.shape[axis]);
      if (name != nullptr && *name == dimension) return given->tensor.shape[axis];
    }
  }
  return std::nullopt;
}

// "tokens[0, 3]".
std::string place_of(const NamedTensor& named, std::size_t index) {
  std::string place;
  for (std::size_t axis = named.tensor.shape.size(); axis-- > 0;) {
    const auto size = static_cast<std::size_t>(named.tensor.shape[axis]);
    place = std::to_string(index % size) + (place.empty() ? "" : ", ") + place;
    index /= size;
  }
  return "'" + std::string(named.name) + "'[" + place + "]";
}

void check_range(const NamedTensor& named, const Numbers& numbers, std::int64_t low, std::optional<std::int64_t> high) {
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] >= low && (!high || numbers[i] <= *high)) continue;
    refuse(place_of(named, i) + " is " + std::to_string(numbers[i]) + ", the model takes " + std::to_string(low) +
           (high ? ".." + std::to_string(*high) : " and more") + (named.tensor.shape.size() > 1 ? "; pad with 0" : ""));
  }
}

// The tokens that the states of a call have room for; none where they do not grow.
std::optional<std::int64_t> room_of(const StateSpec& state, std::span<const NamedTensor> inputs) {
  std::optional<std::int64_t> room;
  for (const StateTensor& tensor : state.tensors) {
    const NamedTensor* past = tensor.capacity_axis > 0 ? find(inputs, tensor.past()) : nullptr;
    if (past == nullptr) continue;
    const std::int64_t size = past->tensor.shape[tensor.capacity_axis];
    room = std::min(room.value_or(size), size);
  }
  if (state.max_length > 0) room = std::min(room.value_or(state.max_length), state.max_length);
  return room;
}

// A decoding step's own numbers: valid tokens of those that there are, and rows that stay within their states.
void check_rows(const Graph& graph, std::span<const NamedTensor> inputs) {
  const NamedTensor *tokens = find(inputs, "tokens"), *lengths = find(inputs, "lengths");
  const NamedTensor* position = find(inputs, "position");
  if (tokens == nullptr || lengths == nullptr || position == nullptr || tokens->tensor.shape.size() != 2) return;
  const std::optional<Numbers> counts = numbers_of(*lengths), starts = numbers_of(*position);
  if (!counts || !starts || counts->size() != starts->size()) return;
  check_range(*lengths, *counts, 0, tokens->tensor.shape[1]);
  check_range(*position, *starts, 0, std::nullopt);
  const std::optional<std::int64_t> room = room_of(*graph.state, inputs);
  for (std::size_t row = 0; room && row < counts->size(); ++row) {
    if ((*counts)[row] <= *room && (*starts)[row] <= *room - (*counts)[row]) continue;
    refuse("row " + std::to_string(row) + " would go from token " + std::to_string((*starts)[row]) + " on by " +
           std::to_string((*counts)[row]) + " tokens, but its state holds " + std::to_string(*room));
  }
}

}  // namespace

bool has_contracts(const Graph& graph) { return !graph.contracts.empty() || graph.state; }

void check_values(const Graph& graph, std::span<const NamedTensor> inputs) {
  for (const auto& [name, contract] : graph.contracts) {
    const NamedTensor* given = find(inputs, name);
    const std::optional<Numbers> numbers = given == nullptr ? std::nullopt : numbers_of(*given);
    if (!numbers) continue;
    std::optional<std::int64_t> high = contract.high;
    if (!high && !contract.counts.empty()) high = size_of_dimension(graph, inputs, contract.counts);
    constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
    check_range(*given, *numbers, contract.low.value_or(kLeast), high);
  }
  if (graph.state) check_rows(graph, inputs);
}

}  // namespace hsm::runtime
