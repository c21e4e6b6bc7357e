// What an ONNX file says of itself: its inputs and outputs, and its metadata. The graph is not looked at.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/manifest.h"

namespace hsm::runtime {

// An input or output, as far as the file describes it.
struct OnnxValue {
  std::string name;
  std::optional<DType> dtype;                   // none: no tensor, or of a type that this library does not know
  std::optional<std::vector<Dimension>> shape;  // a dimension without a size has its name, or "" for none
};

struct OnnxSignature {
  std::vector<OnnxValue> inputs, outputs;
  std::map<std::string, std::string> metadata;
};

// Reads a serialised ModelProto, in which nothing is believed. Throws Error(kBadBundle) when it is none. `where` names
// the file.
OnnxSignature read_signature(std::span<const std::byte> file, const std::string& where);

// Throws Error(kBadBundle) where the manifest's graph is not the file's: names, types, ranks, sizes and state, as far
// as the file says them.
void reconcile(const Graph& graph, const OnnxSignature& signature, const std::string& where);

// What the file's metadata says of the numbers in its inputs, and of the weights.
void take_contract(Graph& graph, const OnnxSignature& signature, const std::string& where);

}  // namespace hsm::runtime
