// A graph of a bundle as a TensorRT engine, through the back end's own library.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/manifest.h"
#include "runtime/program.h"

namespace hsm::runtime::trt {

struct Source {
  std::string folder;  // of the bundle
  std::string part;    // "model" or "decode"
  const Graph& graph;
  const std::vector<hsm::runtime::Engine>& engines;
  const std::vector<OperatorLibrary>& operator_libraries;
  std::string libraries;  // folder of libhsm_runtime.so, where the back end and the plugins are by default
};

// Loads the first engine that fits this machine. Throws Error: kNoBackend with what is missing or does not match.
std::shared_ptr<const Program> load_program(const Source& source, const hsm_runtime::SessionOptions& options);

}  // namespace hsm::runtime::trt
