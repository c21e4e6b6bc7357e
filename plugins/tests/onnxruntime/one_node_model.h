// ONNX files of one node, made without protobuf: the wire format is small enough to write by hand.
#pragma once

#include <span>
#include <string>

#include "mixers/opset.h"

namespace hsm::testing {

// Returns a serialised ModelProto whose graph is one node of `op`, with T = `type`. Graph inputs and outputs have the
// names of the operator's ports, and dynamic dimensions.
std::string one_node_model(const opset::Operator& op, DType type, std::span<const opset::AttributeValue> attributes);

}  // namespace hsm::testing
