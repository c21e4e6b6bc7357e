// What an ONNX file says of itself: its inputs and outputs, its metadata, and the files that it needs beside it.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/manifest.h"

namespace hsm::runtime {

// An input or output, as far as the file describes it.
struct OnnxValue {
  std::optional<DType> dtype;                   // none: no tensor, or of a type that this library does not know
  std::optional<std::vector<Dimension>> shape;  // a dimension without a size has its name, or "" for none
};

using OnnxValues = std::map<std::string, OnnxValue, std::less<>>;  // by name; the first of several

struct OnnxSignature {
  OnnxValues inputs, outputs;
  std::map<std::string, std::string> metadata;
  std::set<std::string> files;  // where tensors, of inner graphs and functions too, keep their numbers
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
