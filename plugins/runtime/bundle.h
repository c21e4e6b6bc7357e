// What a public Bundle points to.
#pragma once

#include <string>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "runtime/file.h"
#include "runtime/manifest.h"

namespace hsm_runtime {

struct Bundle::Impl {
  std::string path;
  hsm::runtime::Manifest manifest;
  std::string tokenizer_path;

  const std::optional<hsm::runtime::Graph>& graph(Part part) const {
    return part == Part::kModel ? manifest.model : manifest.decode;
  }
};

}  // namespace hsm_runtime
