// Bundles with engines for the fake GPU, and the session options that lead there.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "tests/runtime/bundle_writer.h"
#include "tests/runtime/devices/fake_gpu.h"

namespace hsm::testing {

// What the manifest says of an engine; the content is the name of a fake engine.
struct FakeEngine {
  std::string file = "engines/a.engine";
  std::string of = "model";
  std::string target = "tensorrt";
  std::string version = "10.14.1";
  std::string architectures = R"("sm86")";
  bool plugins = false;
  bool embedded = false;
  std::string content = "doubling";
};

// A bundle of the doubling model, and of the counting one too where `state` describes its state.
std::string write_engine_bundle(const TemporaryFolder& folder, const std::vector<FakeEngine>& engines,
                                const std::optional<CountingState>& state = std::nullopt);

// The libraries that the build made.
std::string fake_gpu_library();
std::string backend_library();

// The state in the fake library.
FakeGpu& fake_gpu();

// TensorRT alone, with the fake library in the place of NVIDIA's.
hsm_runtime::SessionOptions fake_options();

// The calls whose names are in `names`, with their arguments.
std::vector<std::string> calls_of(const std::vector<std::string>& names);

// That nothing lives on the GPU any more and nobody did what no caller may do.
void expect_clean();

}  // namespace hsm::testing
