#include "tests/runtime/bundle_writer.h"

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <span>
#include <string_view>

#include "runtime/sha256.h"

namespace hsm::testing {
namespace {

// A protobuf message under construction; lengths and numbers below 128 are all that these models need.
std::string field(int number, std::string_view value) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(value.size())} + std::string(value);
}
std::string number(int number, int value) { return {static_cast<char>(number << 3), static_cast<char>(value)}; }

std::string value_info(std::string_view name) {
  const std::string shape = field(1, field(2, "batch")) + field(1, number(1, 3));
  return field(1, name) + field(2, field(1, number(1, 1) + field(2, shape)));
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "hsm-runtime-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string doubling_model() {
  const std::string node = field(1, "x") + field(1, "x") + field(2, "y") + field(4, "Add");
  const std::string graph =
      field(1, node) + field(2, "graph") + field(11, value_info("x")) + field(12, value_info("y"));
  return number(1, 10) + field(7, graph) + field(8, number(2, 21));
}

std::map<std::string, std::string> good_files() {
  return {{"model.onnx", doubling_model()}, {"self-test.safetensors", "never read by these tests"}};
}

std::string manifest_of(const std::map<std::string, std::string>& files) {
  std::string listed;
  for (const auto& [name, content] : files) {
    listed += (listed.empty() ? "" : ", ") + ("\"" + name) + "\": {\"bytes\": " + std::to_string(content.size()) +
              ", \"sha256\": \"" + runtime::sha256(std::as_bytes(std::span(content))) + "\"}";
  }
  return R"({"format": "hsm-bundle", "schema": 1, "hsm_export": "0.1.0", "task": "", "precision": "fp32",
 "model": {"file": "model.onnx", "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
           "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}]},
 "decode": null, "engines": [], "tokenizer": null,
 "self_test": {"file": "self-test.safetensors", "tolerances": {"model.y": 1e-5}},
 "files": {)" +
         listed + "}}\n";
}

void write_bundle(const std::filesystem::path& folder, const std::map<std::string, std::string>& files,
                  const std::string& manifest) {
  std::filesystem::create_directories(folder);
  for (const auto& [name, content] : files) {
    std::filesystem::create_directories((folder / name).parent_path());
    std::ofstream(folder / name, std::ios::binary) << content;
  }
  std::ofstream(folder / "manifest.json", std::ios::binary) << manifest;
}

std::string write_good_bundle(const TemporaryFolder& folder) {
  const std::filesystem::path path = folder.path() / "model.hsm";
  write_bundle(path, good_files(), manifest_of(good_files()));
  return path.string();
}

}  // namespace hsm::testing
