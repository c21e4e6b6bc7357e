// What an ONNX file says of itself: its inputs and outputs, and its metadata. The graph is not looked at.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/manifest.h"

namespace hsm::runtime {

struct OnnxSignature {
  std::vector<TensorInfo> inputs, outputs;  // a dimension without a size has its name, or "" for none
  std::map<std::string, std::string> metadata;
};

// Reads a serialised ModelProto, in which nothing is believed. Throws Error(kBadBundle): it is none, or has an input or
// output that is no tensor of a type that this library knows. `where` names the file.
OnnxSignature read_signature(std::span<const std::byte> file, const std::string& where);

// Throws Error(kBadBundle) unless the manifest's graph is the file's: names, types, ranks, sizes and state.
void reconcile(const Graph& graph, const OnnxSignature& signature, const std::string& where);

// What the file's metadata says of the numbers in its inputs, and of the weights.
void take_contract(Graph& graph, const OnnxSignature& signature, const std::string& where);

}  // namespace hsm::runtime
