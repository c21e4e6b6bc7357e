// Bundles made by the tests, without Python: a model that doubles its input, and a manifest to spoil.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace hsm::testing {

// A folder that is removed again.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// ONNX: y = x + x, float32 (batch, 3); the batch may be a size such as "-1", which converters write for dynamic ones.
std::string doubling_model(const std::string& batch = "batch");

// ONNX: a decoding model of 4 tokens whose state "0.sum" counts a row's tokens, and whose logits are those counts plus
// one for the token itself. Rows of length 0 stand still; padding counts.
std::string counting_model();

// What the manifest says of the counting model's state: its schema, and the properties of its tensor.
struct CountingState {
  int schema = 2;
  std::string properties = R"("capacity_axis": null, "rollback": "slots", "in_place": true)";
};
// The others that tests need.
inline const CountingState kCountingSums = {2, R"("capacity_axis": null, "rollback": "snapshot", "in_place": true)"};
inline const CountingState kCountingApart = {2, R"("capacity_axis": null, "rollback": "slots", "in_place": false)"};

// The first schema's words: a kind and a layer.
CountingState counting_state_of_kind(const std::string& kind);

// One entry of an ONNX file's metadata, to be appended to a model.
std::string onnx_metadata(const std::string& key, const std::string& value);

// What to write otherwise than is right: a text of the manifest in the place of another, and metadata of the model.
struct Changes {
  std::string from, to;
  std::string metadata;
};

// A bundle with the counting model.
std::string write_counting_bundle(const TemporaryFolder& folder, const CountingState& state = {},
                                  const Changes& changes = {});

// The files of a bundle with that model, by name, apart from the manifest.
std::map<std::string, std::string> good_files();

// The manifest that describes the files.
std::string manifest_of(const std::map<std::string, std::string>& files);

// Writes files, and `manifest` beside them, into a new folder `folder`.
void write_bundle(const std::filesystem::path& folder, const std::map<std::string, std::string>& files,
                  const std::string& manifest);

// Writes the good bundle and returns its path.
std::string write_good_bundle(const TemporaryFolder& folder);

// The same, but its manifest says that y may have more or fewer rows than x: with these a run fails.
std::string write_lying_bundle(const TemporaryFolder& folder);

}  // namespace hsm::testing
