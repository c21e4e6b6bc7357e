// A graph that a back end has loaded: what every back end implements.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "hsm_runtime/tensor.h"
#include "runtime/manifest.h"

namespace hsm::runtime {

using hsm_runtime::NamedTensor;
using hsm_runtime::Tensor;
using hsm_runtime::TensorView;

// Inputs and outputs bound to memory that stays: running it allocates nothing in this library.
class Binding {
 public:
  virtual ~Binding() = default;
  virtual void run() = 0;
};

// Implementations throw Error. Tensors come checked (check.h); all methods may be called from several threads at once.
class Program {
 public:
  virtual ~Program() = default;
  virtual void run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs) const = 0;
  virtual std::vector<Tensor> run(std::span<const NamedTensor> inputs) const = 0;
  virtual std::unique_ptr<Binding> bind(std::span<const NamedTensor> inputs,
                                        std::span<const NamedTensor> outputs) const = 0;
};

}  // namespace hsm::runtime
