// What to tell a user whose call no kernel takes. No CUDA header in here.
#pragma once

#include <string>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/common/opset.h"

namespace hsm::cuda {

// Names the operator, its inputs' sizes and the device.
inline std::string refusal(const opset::Operator& op, const Call& call, const Device& device) {
  std::string sizes;
  for (std::size_t i = 0; i < call.shapes.size() && i < op.inputs.size(); ++i) {
    sizes += (i == 0 ? "" : ", ") + std::string(op.inputs[i].name) + " (";
    for (std::size_t axis = 0; axis < call.shapes[i].size(); ++axis) {
      sizes += (axis == 0 ? "" : ",") + std::to_string(call.shapes[i][axis]);
    }
    sizes += ")";
  }
  return "no CUDA kernel takes " + sizes + " on a GPU of sm_" + std::to_string(device.sm) +
         ": they are too large for a launch or for its shared memory; use smaller sizes, or run the operator's body";
}

}  // namespace hsm::cuda
