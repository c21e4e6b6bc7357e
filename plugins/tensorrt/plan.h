// Which tactic runs a node of given sizes, and how much workspace the engine must hold for it.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hsm_operators/common/call.h"
#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/common/cuda/kernels.h"

namespace hsm::tensorrt {

// The GPUs that an engine may run on, one an architecture, each with as many multiprocessors as any has. An engine may
// run on another GPU than it was built on, or be built where there is none, so its workspace must do for all of them.
std::span<const cuda::Device> reference_devices();

// Sizes and type of a call whose tensors are not there yet.
class Sizes {
 public:
  // Returns what is wrong with the shapes, as a sentence, or nothing; a size that is not known is wrong.
  std::optional<std::string> assign(const opset::Operator& op, DType type,
                                    std::span<const opset::AttributeValue> attributes,
                                    std::vector<opset::Shape> inputs);

  // A call that only asks: its pointers are null.
  Call question(std::span<const opset::AttributeValue> attributes) const {
    return {type_, attributes, shapes_, no_inputs_, no_outputs_};
  }
  std::span<const opset::Shape> shapes() const { return shapes_; }
  DType type() const { return type_; }

 private:
  DType type_ = DType::kFloat32;
  std::vector<opset::Shape> shapes_;
  std::vector<const void*> no_inputs_;
  std::vector<void*> no_outputs_;
};

// Returns the bytes of workspace with which every tactic runs these sizes, and smaller ones, on every GPU.
std::size_t workspace_bound(const cuda::Kernels& kernels, const Call& call);

// Returns the tactics that run a profile's smallest, expected and largest sizes. None where the expected best tactic
// changes inside the profile: a tactic timed at one length would then be kept at all others, so the launcher's own
// choice by length is better.
std::vector<int> tactics_to_time(const cuda::Kernels& kernels, std::span<const Call> profile,
                                 const cuda::Device& device);

}  // namespace hsm::tensorrt
