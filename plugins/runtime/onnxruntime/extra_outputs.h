// Tensors inside of a graph as outputs of it: hidden states, say.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "hsm_runtime/tensor.h"
#include "runtime/onnxruntime/library.h"

namespace hsm::runtime::ort {

// The serialised model with more outputs. Throws Error(kInvalidArgument) for names that no node of its graph writes.
// `where` names the file.
std::vector<std::byte> with_outputs(std::span<const std::byte> model, std::span<const std::string> names,
                                    const std::string& where);

// What a session says of its last `count` outputs.
std::vector<hsm_runtime::TensorInfo> last_outputs(const OrtApi& api, const OrtSession* session,
                                                  std::span<const std::string> names);

}  // namespace hsm::runtime::ort
