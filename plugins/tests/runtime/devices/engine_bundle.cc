#include "tests/runtime/devices/engine_bundle.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace hsm::testing {
namespace {

std::string entry_of(const FakeEngine& engine) {
  const auto text = [](bool value) { return value ? "true" : "false"; };
  return R"({"file": ")" + engine.file + R"(", "of": ")" + engine.of + R"(", "target": ")" + engine.target +
         R"(", "version": ")" + engine.version + R"(", "architectures": [)" + engine.architectures +
         R"(], "plugins": )" + text(engine.plugins) + R"(, "embedded_plugins": )" + text(engine.embedded) +
         R"(, "profiles": []})";
}

// The decoding part of the bundle that write_counting_bundle() makes.
std::string decode_entry(const CountingState& state) {
  const TemporaryFolder folder;
  std::ifstream file(write_counting_bundle(folder, state) + "/manifest.json");
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  const std::size_t first = all.find("\"decode\":");
  return all.substr(first, all.find(", \"engines\"") - first);
}

void replace(std::string& text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

}  // namespace

std::string write_engine_bundle(const TemporaryFolder& folder, const std::vector<FakeEngine>& engines,
                                const std::optional<CountingState>& state) {
  auto files = good_files();
  if (state) files["decode.onnx"] = counting_model();
  std::string entries;
  for (const FakeEngine& engine : engines) {
    files[engine.file] = engine.content;
    files[engine.file + ".json"] = "{}";
    entries += (entries.empty() ? "" : ", ") + entry_of(engine);
  }
  std::string manifest = manifest_of(files);
  replace(manifest, "\"engines\": []", "\"engines\": [" + entries + "]");
  if (state) replace(manifest, "\"decode\": null", decode_entry(*state));
  const std::filesystem::path path = folder.path() / "engines.hsm";
  std::filesystem::remove_all(path);
  write_bundle(path, files, manifest);
  return path.string();
}

std::string fake_gpu_library() { return HSM_TEST_FAKE_GPU; }
std::string backend_library() { return HSM_TEST_BACKEND; }

FakeGpu& fake_gpu() {
  static FakeGpu* const gpu = [] {
    void* library = dlopen(HSM_TEST_FAKE_GPU, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    return reinterpret_cast<FakeGpuEntry>(dlsym(library, kFakeGpuEntry))();
  }();
  return *gpu;
}

hsm_runtime::SessionOptions fake_options() {
  hsm_runtime::SessionOptions options;
  options.backends = {hsm_runtime::Backend::kTensorRt};
  options.tensorrt_backend = backend_library();
  options.nvinfer_library = options.cudart_library = fake_gpu_library();
  return options;
}

std::vector<std::string> calls_of(const std::vector<std::string>& names) {
  std::vector<std::string> found;
  const std::lock_guard lock(fake_gpu().mutex);
  for (const std::string& call : fake_gpu().calls) {
    const std::string name = call.substr(0, call.find(' '));
    if (std::find(names.begin(), names.end(), name) != names.end()) found.push_back(call);
  }
  return found;
}

void expect_clean() {
  EXPECT_THAT(fake_gpu().violations, ::testing::IsEmpty());
  for (const auto& [kind, count] : fake_gpu().live) EXPECT_EQ(count, 0) << kind;
}

}  // namespace hsm::testing
