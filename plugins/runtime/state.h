// The state of a batch of sequences: one buffer for each tensor of the specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/manifest.h"
#include "runtime/program.h"

namespace hsm::runtime {

// Rows one after the other. The memory never moves, so that it stays bound.
struct StateBuffer {
  std::string past, present;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;
  std::size_t bytes = 0;
  std::shared_ptr<std::byte> memory;

  std::size_t row_bytes() const { return bytes / static_cast<std::size_t>(shape[0]); }
  std::byte* row(std::size_t index) const { return memory.get() + index * row_bytes(); }
};

// Bytes of rows of one tensor, and their shape but for the batch.
struct StateRow {
  const std::byte* data = nullptr;
  std::span<const std::int64_t> shape;
};

struct StateBuffers {
  // Zeros, where `program` likes them to be, with room for `slots` tokens in the tensors that grow (0: for the whole
  // capacity). Throws Error(kInvalidArgument): a batch or capacity that is out of range, missing or too small for the
  // file.
  StateBuffers(const Program& program, const StateSpec& spec, std::int64_t batch, std::int64_t capacity,
               std::int64_t slots = 0);

  // The set that a call writes which reads this one: the same buffers where the program updates them in place, and new
  // ones elsewhere.
  StateBuffers counterpart(const Program& program) const;

  std::size_t bytes() const;
  void clear_row(std::size_t row);
  // Copies a row of the same model's state; slots beyond the smaller of two capacities are zeros.
  void copy_row(std::size_t target, const StateBuffers& from, std::size_t source);
  // The same for one tensor, from memory of the CPU or of this kind.
  void copy_row(std::size_t tensor, std::size_t target, const StateRow& from);
  // The shape of one row of a tensor.
  std::span<const std::int64_t> row_shape(std::size_t tensor) const;

  const StateSpec* spec;
  const Memory* memory;
  std::vector<StateBuffer> tensors;
  std::int64_t longest = 0;  // tokens that a row may reach; 0: any number
  std::int64_t slots = 0;    // tokens that the tensors that grow have room for; 0: none grows by the host's choice
};

// Whether the host chooses the capacity of some tensor.
bool needs_capacity(const StateSpec& spec);

// Bytes of `batch` rows with room for `capacity` tokens. Throws Error(kInvalidArgument) as StateBuffers does.
std::size_t state_bytes(const StateSpec& spec, std::int64_t batch, std::int64_t capacity);

// Tokens that the logits distinguish. Throws Error(kBadBundle) unless the graph is one that decodes.
std::int64_t vocabulary_of(const Graph& graph);

// `distance`: tokens between the furthest that a row ever reached and where it shall go back to. Throws
// Error(kInvalidArgument) when the state cannot.
void check_rollback(const StateSpec& spec, std::int64_t distance);

}  // namespace hsm::runtime
