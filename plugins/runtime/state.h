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

// The memory never moves, so that it stays bound.
struct StateBuffer {
  std::string past, present;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;
  std::size_t bytes = 0;
  std::shared_ptr<std::byte> memory;

  TensorView view(const Device& device) const { return {memory.get(), dtype, shape, {}, device}; }
  std::size_t row_bytes() const { return bytes / static_cast<std::size_t>(shape[0]); }
  std::byte* row(std::size_t index) const { return memory.get() + index * row_bytes(); }
};

struct StateBuffers {
  // Zeros, where `program` likes them to be. Throws Error(kInvalidArgument): a batch or capacity that is out of range,
  // missing or too small for the file.
  StateBuffers(const Program& program, const StateSpec& spec, std::int64_t batch, std::int64_t capacity);

  // The set that a call writes which reads this one: the same buffers where the program updates them in place, and new
  // ones elsewhere.
  StateBuffers counterpart(const Program& program) const;

  std::size_t bytes() const;
  void clear_row(std::size_t row);
  void copy_row(std::size_t source, std::size_t target);
  // A .safetensors file as hsm_export.decoding's sessions write and read.
  void save(const std::string& path, std::span<const std::int64_t> positions) const;
  // Returns the positions. A state of another capacity fits when the rows do. Throws Error.
  std::vector<std::int64_t> load(const std::string& path, std::size_t rows);

  const StateSpec* spec;
  const Memory* memory;
  std::vector<StateBuffer> tensors;
  std::int64_t longest = 0;  // tokens that a row may reach; 0: any number
};

// Tokens that the logits distinguish. Throws Error(kBadBundle) unless the graph is one that decodes.
std::int64_t vocabulary_of(const Graph& graph);

// `distance`: tokens between the furthest that a row ever reached and where it shall go back to. Throws
// Error(kInvalidArgument) when the state cannot.
void check_rollback(const StateSpec& spec, std::int64_t distance);

}  // namespace hsm::runtime
