#include "tests/runtime/bundle_writer.h"

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/sha256.h"

namespace hsm::testing {
namespace {

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

// Fields of protobuf messages; the numbers are those of onnx.proto.
std::string field(unsigned number, std::string_view value) {
  return varint(number << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string number(unsigned number, std::uint64_t value) { return varint(number << 3) + varint(value); }

constexpr int kFloat = 1;
constexpr int kInt64 = 7;

std::string value_info(std::string_view name, int type, const std::vector<std::string>& dimensions) {
  std::string shape;
  for (const std::string& dimension : dimensions) {
    const bool is_size = dimension.find_first_not_of("-0123456789") == std::string::npos;
    shape += field(1, is_size ? number(1, std::stoull(dimension)) : field(2, dimension));
  }
  return field(1, name) + field(2, field(1, number(1, type) + field(2, shape)));
}

std::string node(std::string_view type, const std::vector<std::string_view>& inputs, std::string_view output,
                 const std::string& attributes = "") {
  std::string text;
  for (const std::string_view input : inputs) text += field(1, input);
  return field(1, text + field(2, output) + field(4, type) + attributes);
}

template <typename T>
std::string constant(std::string_view name, int type, const std::vector<T>& values, bool is_scalar = false) {
  const std::string_view raw(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return field(5, (is_scalar ? "" : number(1, values.size())) + number(2, type) + field(8, name) + field(9, raw));
}

std::string model_of(const std::string& graph) {
  return number(1, 10) + field(7, graph + field(2, "graph")) + field(8, number(2, 21));
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

std::string doubling_model(const std::string& batch) {
  return model_of(node("Add", {"x", "x"}, "y") + field(11, value_info("x", kFloat, {batch, "3"})) +
                  field(12, value_info("y", kFloat, {batch, "3"})));
}

std::string counting_model() {
  using Ints = std::vector<std::int64_t>;
  const std::string to_float = field(5, field(1, "to") + number(3, kFloat) + number(20, 2));
  return model_of(node("OneHot", {"tokens", "depth", "values"}, "hot") + node("Min", {"lengths", "one"}, "moves") +
                  node("Cast", {"moves"}, "flags", to_float) + node("Unsqueeze", {"flags", "last"}, "mask") +
                  node("Mul", {"hot", "mask"}, "valid") + node("ReduceSum", {"valid", "one"}, "sum") +
                  node("Add", {"past.0.sum", "sum"}, "present.0.sum") +
                  node("Add", {"hot", "present.0.sum"}, "logits") + constant("depth", kInt64, Ints{4}, true) +
                  constant("values", kFloat, std::vector<float>{0, 1}) + constant("one", kInt64, Ints{1}) +
                  constant("last", kInt64, Ints{1, 2}) + field(11, value_info("tokens", kInt64, {"batch", "length"})) +
                  field(11, value_info("position", kInt64, {"batch"})) +
                  field(11, value_info("lengths", kInt64, {"batch"})) +
                  field(11, value_info("past.0.sum", kFloat, {"batch", "1", "4"})) +
                  field(12, value_info("logits", kFloat, {"batch", "length", "4"})) +
                  field(12, value_info("present.0.sum", kFloat, {"batch", "1", "4"})));
}

CountingState counting_state_of_kind(const std::string& kind) { return {1, R"("layer": 0, "kind": ")" + kind + "\""}; }

std::string onnx_metadata(const std::string& key, const std::string& value) {
  return field(14, field(1, key) + field(2, value));
}

std::string write_counting_bundle(const TemporaryFolder& folder, const CountingState& state, const Changes& changes) {
  auto files = good_files();
  files["decode.onnx"] = counting_model() + changes.metadata;
  std::string manifest = manifest_of(files);
  const std::string none = "\"decode\": null";
  manifest.replace(manifest.find(none), none.size(),
                   R"("decode": {"file": "decode.onnx", "cpu_file": null,
 "inputs": [{"name": "tokens", "dtype": "int64", "shape": ["batch", "length"]},
            {"name": "position", "dtype": "int64", "shape": ["batch"]},
            {"name": "lengths", "dtype": "int64", "shape": ["batch"]},
            {"name": "past.0.sum", "dtype": "float32", "shape": ["batch", 1, 4]}],
 "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", "length", 4]},
             {"name": "present.0.sum", "dtype": "float32", "shape": ["batch", 1, 4]}],
 "state": {"schema": )" +
                       std::to_string(state.schema) + R"(, "tensors": [{"name": "0.sum", )" + state.properties +
                       R"(, "dtype": "float32",
           "shape": ["batch", 1, 4], "spare": 2, "bytes": 16}],
           "capacity": null, "rollback": 2, "max_length": 9, "last_logits": false}})");
  if (!changes.from.empty()) manifest.replace(manifest.find(changes.from), changes.from.size(), changes.to);
  const std::filesystem::path path = folder.path() / "counting.hsm";
  write_bundle(path, files, manifest);
  return path.string();
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
 "model": {"file": "model.onnx", "cpu_file": null, "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
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

std::string write_lying_bundle(const TemporaryFolder& folder) {
  std::string manifest = manifest_of(good_files());
  const std::string shape = R"("batch")";
  manifest.replace(manifest.rfind(shape), shape.size(), R"("rows")");
  const std::filesystem::path path = folder.path() / "lying.hsm";
  write_bundle(path, good_files(), manifest);
  return path.string();
}

}  // namespace hsm::testing
