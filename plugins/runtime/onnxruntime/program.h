// A graph in ONNX Runtime.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/onnxruntime/library.h"
#include "runtime/program.h"

namespace hsm::runtime::ort {

struct Settings {
  std::string folder;                         // of the graph's external data
  std::vector<std::string> kernel_libraries;  // fused kernels; none runs the bodies
  int threads = 0;
  bool shared_threads = false, spinning = true;
  std::string affinity;
  std::vector<std::string> extra_outputs;  // tensors inside of the graph
  hsm_runtime::LogCallback log;
  std::optional<int> cuda_device;  // none: the CPU
};

// Loads a serialised model; `model` and `graph` need not outlive the call. Throws Error(kNoBackend).
std::shared_ptr<const Program> load_program(const Library& library, const Graph& graph,
                                            std::span<const std::byte> model, Settings settings);

}  // namespace hsm::runtime::ort
