// ONNX files of one node, made without protobuf: the wire format is small enough to write by hand.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "hsm_operators/common/opset.h"

namespace hsm::testing {

// What the model says of an input beside its type.
struct InputSpec {
  opset::Shape shape;        // empty: dynamic dimensions, named by the letters of the table
  bool is_constant = false;  // an initializer of zeros instead of a graph input; needs a shape
};

// Returns a serialised ModelProto whose graph is one node of `op`, with T = `type`. Graph inputs and outputs have the
// names of the operator's ports, and dynamic dimensions where `specs` says no other.
std::string one_node_model(const opset::Operator& op, DType type, std::span<const opset::AttributeValue> attributes,
                           const std::map<std::string_view, InputSpec>& specs = {});

}  // namespace hsm::testing
