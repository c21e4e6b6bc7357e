// Checks the caller's tensors against what the bundle says of the graph, before anything runs.
#pragma once

#include <span>

#include "runtime/manifest.h"
#include "runtime/program.h"

namespace hsm::runtime {

// Throws Error(kInvalidArgument) unless every input is given once, and every tensor has a name of the graph, its
// element type, and a shape in which dimensions of one name have one size. Memory is the CPU's or that of `device`.
void check_tensors(const Graph& graph, std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                   const Device& device = {});

// Whether check_values has anything to look at.
bool has_contracts(const Graph& graph);

// Throws Error(kInvalidArgument) for a whole number that the graph does not take: token ids, positions, numbers of
// valid tokens. Tensors are those that check_tensors took; memory of a GPU is not looked at.
void check_values(const Graph& graph, std::span<const NamedTensor> inputs);

}  // namespace hsm::runtime
