#include "runtime/state.h"

#include <algorithm>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 40;  // bytes of one tensor
constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;

// Sets its shape and size, which `capacity` completes.
StateBuffer sized(const StateTensor& tensor, std::int64_t batch, std::int64_t capacity) {
  StateBuffer buffer{tensor.past(), tensor.present(), tensor.dtype, {batch}};
  std::int64_t bytes = batch * static_cast<std::int64_t>(size_of(tensor.dtype));
  for (std::size_t i = 1; i < tensor.shape.size(); ++i) {
    const std::int64_t* size = std::get_if<std::int64_t>(&tensor.shape[i]);
    buffer.shape.push_back(size != nullptr ? *size : capacity);
    if (__builtin_mul_overflow(bytes, buffer.shape.back(), &bytes) || bytes > kLargest) {
      fail(Code::kInvalidArgument, "the state " + tensor.name + " would take more than 1 TiB for " +
                                       std::to_string(batch) + " rows; take fewer rows or a smaller capacity");
    }
  }
  buffer.bytes = static_cast<std::size_t>(bytes);
  return buffer;
}

// The tokens that a row may reach; 0 for any number.
std::int64_t checked_longest(const StateSpec& spec, std::int64_t batch, std::int64_t capacity) {
  if (batch < 1) fail(Code::kInvalidArgument, "a generator needs at least one row");
  if (batch > kMost) fail(Code::kInvalidArgument, "a generator has at most " + std::to_string(kMost) + " rows");
  if (capacity < 0 || capacity > kMost) {
    fail(Code::kInvalidArgument, "the capacity must be from 0 to " + std::to_string(kMost) + " tokens");
  }
  const bool open = needs_capacity(spec);
  if (open && capacity == 0) {
    fail(Code::kInvalidArgument, "the file leaves the states' capacity open: give the tokens that a row must reach");
  }
  std::int64_t longest = open ? capacity : 0;
  for (const std::int64_t limit : {spec.capacity.value_or(0), spec.max_length}) {
    if (limit > 0 && (longest == 0 || limit < longest)) longest = limit;
  }
  if (longest > 0 && capacity > longest) {
    fail(Code::kInvalidArgument, "a row can reach " + std::to_string(longest) + " tokens, not " +
                                     std::to_string(capacity) + "; export with a larger --capacity");
  }
  return longest;
}

}  // namespace

bool needs_capacity(const StateSpec& spec) {
  return std::any_of(spec.tensors.begin(), spec.tensors.end(), [](const StateTensor& tensor) {
    return tensor.capacity_axis > 0 && std::holds_alternative<std::string>(tensor.shape[tensor.capacity_axis]);
  });
}

std::size_t state_bytes(const StateSpec& spec, std::int64_t batch, std::int64_t capacity) {
  std::ignore = checked_longest(spec, batch, capacity);
  std::size_t total = 0;
  for (const StateTensor& tensor : spec.tensors) total += sized(tensor, batch, capacity).bytes;
  return total;
}

StateBuffers::StateBuffers(const Program& program, const StateSpec& chosen, std::int64_t batch, std::int64_t capacity,
                           std::int64_t room)
    : spec(&chosen),
      memory(&program.memory()),
      longest(checked_longest(chosen, batch, capacity)),
      slots(needs_capacity(chosen) ? (room == 0 ? capacity : std::min(room, capacity)) : 0) {
  for (const StateTensor& tensor : chosen.tensors) {
    tensors.push_back(sized(tensor, batch, slots));
    tensors.back().memory = memory->allocate(tensors.back().bytes);
  }
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

std::span<const std::int64_t> StateBuffers::row_shape(std::size_t tensor) const {
  return std::span<const std::int64_t>(tensors[tensor].shape).subspan(1);
}

void StateBuffers::copy_row(std::size_t target, const StateBuffers& from, std::size_t source) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    copy_row(i, target, {from.tensors[i].row(source), from.row_shape(i)});
  }
}

// Copies what lies before the smaller of two capacities, for every index of the axes before that one.
void StateBuffers::copy_row(std::size_t tensor, std::size_t target, const StateRow& from) {
  const StateBuffer& to = tensors[tensor];
  const std::size_t axis = spec->tensors[tensor].capacity_axis;
  std::size_t pieces = 1;
  for (std::size_t i = 1; i < axis; ++i) pieces *= static_cast<std::size_t>(to.shape[i]);
  const std::size_t into = to.row_bytes() / pieces;
  std::size_t piece = into;
  if (axis > 0 && from.shape[axis - 1] != to.shape[axis]) {
    piece = into / static_cast<std::size_t>(to.shape[axis]) * static_cast<std::size_t>(from.shape[axis - 1]);
  }
  std::byte* const row = to.row(target);
  if (piece < into) memory->clear(row, to.row_bytes());
  if (piece == into) {
    memory->copy(row, from.data, to.row_bytes());
    return;
  }
  for (std::size_t i = 0; i < pieces; ++i) {
    memory->copy(row + i * into, from.data + i * piece, std::min(piece, into));
  }
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
