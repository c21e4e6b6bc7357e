#include "runtime/state.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "runtime/error.h"
#include "runtime/safetensors.h"

namespace hsm::runtime {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 40;  // bytes of one tensor

bool needs_capacity(const StateSpec& spec) {
  return std::any_of(spec.tensors.begin(), spec.tensors.end(), [](const StateTensor& tensor) {
    return tensor.capacity_axis > 0 && std::holds_alternative<std::string>(tensor.shape[tensor.capacity_axis]);
  });
}

// The format has no name for bfloat16 in NumPy, so its bits are stored.
std::string stored_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return "F16";
    case DType::kBFloat16:
      return "U16";
    case DType::kFloat64:
      return "F64";
    case DType::kInt64:
      return "I64";
    default:
      return "F32";
  }
}

StateBuffer allocate(const Memory& memory, const StateTensor& tensor, std::int64_t batch, std::int64_t capacity) {
  StateBuffer buffer{tensor.past(), tensor.present(), tensor.dtype, {batch}};
  std::int64_t bytes = batch * static_cast<std::int64_t>(size_of(tensor.dtype));
  for (std::size_t i = 1; i < tensor.shape.size(); ++i) {
    const std::int64_t* size = std::get_if<std::int64_t>(&tensor.shape[i]);
    buffer.shape.push_back(size != nullptr ? *size : capacity);
    if (__builtin_mul_overflow(bytes, buffer.shape.back(), &bytes) || bytes > kLargest) {
      fail(Code::kInvalidArgument, "the state " + tensor.name + " would be too large");
    }
  }
  buffer.bytes = static_cast<std::size_t>(bytes);
  buffer.memory = memory.allocate(buffer.bytes);
  return buffer;
}

std::string json_of(const StateTensor& tensor) {
  std::string shape;
  for (const Dimension& dimension : tensor.shape) {
    const std::string* name = std::get_if<std::string>(&dimension);
    shape += (shape.empty() ? "" : ", ") +
             (name != nullptr ? "\"" + *name + "\"" : std::to_string(std::get<std::int64_t>(dimension)));
  }
  return "{\"name\": \"" + tensor.name + "\", \"dtype\": \"" + std::string(name_of(tensor.dtype)) + "\", \"shape\": [" +
         shape + "], \"capacity_axis\": " + (tensor.capacity_axis > 0 ? std::to_string(tensor.capacity_axis) : "null") +
         ", \"rollback\": \"" + std::string(name_of(tensor.rollback)) +
         "\", \"spare\": " + std::to_string(tensor.spare) + ", \"in_place\": " + (tensor.in_place ? "true" : "false") +
         "}";
}

std::string json_of(const StateSpec& spec) {
  std::string tensors;
  for (const StateTensor& tensor : spec.tensors) tensors += (tensors.empty() ? "" : ", ") + json_of(tensor);
  return "{\"schema\": 2, \"tensors\": [" + tensors +
         "], \"capacity\": " + (spec.capacity ? std::to_string(*spec.capacity) : "null") +
         ", \"rollback\": " + std::to_string(spec.rollback) + ", \"max_length\": " + std::to_string(spec.max_length) +
         ", \"last_logits\": " + (spec.last_logits ? "true" : "false") + "}";
}

const StoredTensor& stored(const SafetensorsFile& file, const std::string& name, const std::string& path) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) fail(Code::kInvalidArgument, path + " lacks " + name + ": it is of another model");
  return found->second;
}

// Whether the shapes are equal but for the capacity.
bool fits(const StoredTensor& found, const StateBuffer& buffer, std::size_t capacity_axis) {
  if (found.shape.size() != buffer.shape.size() || found.dtype != stored_dtype(buffer.dtype)) return false;
  for (std::size_t i = 0; i < buffer.shape.size(); ++i) {
    if (found.shape[i] != buffer.shape[i] && (i == 0 || i != capacity_axis)) return false;
  }
  return true;
}

// Copies what lies before the smaller of two capacities, for every index of the axes before that one.
void copy_tokens(const Memory& memory, const StoredTensor& from, const StateBuffer& to, std::size_t capacity_axis) {
  std::size_t pieces = 1;
  for (std::size_t i = 0; i < std::max<std::size_t>(capacity_axis, 1); ++i) {
    pieces *= static_cast<std::size_t>(to.shape[i]);
  }
  const std::size_t source = from.data.size() / pieces, target = to.bytes / pieces;
  memory.clear(to.memory.get(), to.bytes);
  for (std::size_t i = 0; i < pieces; ++i) {
    memory.copy(to.memory.get() + i * target, from.data.data() + i * source, std::min(source, target));
  }
}

}  // namespace

StateBuffers::StateBuffers(const Program& program, const StateSpec& chosen, std::int64_t batch, std::int64_t capacity)
    : spec(&chosen), memory(&program.memory()) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  if (batch < 1 || batch > kMost) fail(Code::kInvalidArgument, "a generator needs at least one row");
  if (capacity < 0 || capacity > kMost) fail(Code::kInvalidArgument, "the capacity is out of range");
  const bool open = needs_capacity(chosen);
  if (open && capacity == 0) {
    fail(Code::kInvalidArgument, "the file leaves the states' capacity open: give the tokens that a row must reach");
  }
  longest = open ? capacity : 0;
  for (const std::int64_t limit : {chosen.capacity.value_or(0), chosen.max_length}) {
    if (limit > 0 && (longest == 0 || limit < longest)) longest = limit;
  }
  if (longest > 0 && capacity > longest) {
    fail(Code::kInvalidArgument, "a row can reach " + std::to_string(longest) + " tokens, not " +
                                     std::to_string(capacity) + "; export with a larger --capacity");
  }
  for (const StateTensor& tensor : chosen.tensors) tensors.push_back(allocate(*memory, tensor, batch, capacity));
}

StateBuffers StateBuffers::counterpart(const Program& program) const {
  StateBuffers other = *this;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!program.updates_in_place(spec->tensors[i])) other.tensors[i].memory = memory->allocate(tensors[i].bytes);
  }
  return other;
}

std::size_t StateBuffers::bytes() const {
  std::size_t total = 0;
  for (const StateBuffer& tensor : tensors) total += tensor.bytes;
  return total;
}

void StateBuffers::clear_row(std::size_t row) {
  for (const StateBuffer& tensor : tensors) memory->clear(tensor.row(row), tensor.row_bytes());
}

void StateBuffers::copy_row(std::size_t source, std::size_t target) {
  for (const StateBuffer& tensor : tensors) memory->copy(tensor.row(target), tensor.row(source), tensor.row_bytes());
}

void StateBuffers::save(const std::string& path, std::span<const std::int64_t> positions) const {
  std::map<std::string, StoredTensor> stored;
  std::vector<std::vector<std::byte>> copies;  // of what is not in the CPU's memory
  for (const StateBuffer& tensor : tensors) {
    const std::byte* data = tensor.memory.get();
    if (memory->device().kind != Device::Kind::kCpu) {
      data = copies.emplace_back(tensor.bytes).data();
      memory->copy(copies.back().data(), tensor.memory.get(), tensor.bytes);
    }
    stored[tensor.past] = {stored_dtype(tensor.dtype), tensor.shape, {data, tensor.bytes}};
  }
  stored["position"] = {"I64", {static_cast<std::int64_t>(positions.size())}, std::as_bytes(positions)};
  write_safetensors(path, stored, {{"state", json_of(*spec)}});
}

std::vector<std::int64_t> StateBuffers::load(const std::string& path, std::size_t rows) {
  const std::filesystem::path whole(path);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(whole, ignored))) {
    fail(Code::kInvalidArgument, path + " is no plain file");
  }
  const SafetensorsFile file(whole.has_parent_path() ? whole.parent_path().string() : ".", whole.filename().string());
  const StoredTensor& position = stored(file, "position", path);
  if (position.dtype != "I64" || position.shape != std::vector{static_cast<std::int64_t>(rows)}) {
    fail(Code::kInvalidArgument, path + " does not hold the positions of " + std::to_string(rows) + " rows");
  }
  std::vector<std::int64_t> positions(rows);
  std::memcpy(positions.data(), position.data.data(), position.data.size());
  for (const std::int64_t reached : positions) {
    if (reached < 0 || (longest > 0 && reached > longest)) {
      fail(Code::kInvalidArgument, path + " has a row of " + std::to_string(reached) + " tokens, which do not fit");
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!fits(stored(file, tensors[i].past, path), tensors[i], spec->tensors[i].capacity_axis)) {
      fail(Code::kInvalidArgument, path + " holds the state of another model or precision: " + tensors[i].past);
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    copy_tokens(*memory, stored(file, tensors[i].past, path), tensors[i], spec->tensors[i].capacity_axis);
  }
  return positions;
}

std::int64_t vocabulary_of(const Graph& graph) {
  for (const TensorInfo& output : graph.outputs) {
    if (output.name != "logits" || output.dtype != DType::kFloat32 || output.shape.size() != 3) continue;
    if (const std::int64_t* size = std::get_if<std::int64_t>(&output.shape[2])) return *size;
  }
  fail(Code::kBadBundle, "the decoding model has no output logits of float32 (batch, length, vocabulary)");
}

void check_rollback(const StateSpec& spec, std::int64_t distance) {
  for (const StateTensor& tensor : spec.tensors) {
    if (tensor.rollback == Rollback::kSnapshot) {
      fail(Code::kInvalidArgument,
           "the state " + tensor.name + " holds no single tokens, so none can be taken back; save and load a state");
    }
    if (tensor.rollback == Rollback::kSlots && distance > tensor.spare) {
      fail(Code::kInvalidArgument, "the state " + tensor.name + " has spare slots to take " +
                                       std::to_string(tensor.spare) + " tokens back, " +
                                       std::to_string(distance - tensor.spare) + " too few");
    }
  }
}

}  // namespace hsm::runtime
