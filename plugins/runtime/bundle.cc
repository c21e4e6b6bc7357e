#include "runtime/bundle.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "runtime/error.h"
#include "runtime/onnx_file.h"
#include "runtime/sha256.h"

namespace hsm::runtime {
namespace {

constexpr const char* kEngines = "engines";

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// ELF, and Mach-O in its 64-bit, 32-bit and universal forms.
bool looks_like_library(std::string_view bytes) {
  constexpr std::array<std::string_view, 4> kMagic = {
      "\x7f"
      "ELF",
      "\xcf\xfa\xed\xfe", "\xce\xfa\xed\xfe", "\xca\xfe\xba\xbe"};
  return std::find(kMagic.begin(), kMagic.end(), bytes.substr(0, 4)) != kMagic.end();
}

void check_file(const std::string& folder, const std::string& name, const FileEntry& entry, bool verify_digest) {
  const MappedFile file(folder, name);
  const std::string path = folder + "/" + name;
  if (file.bytes().size() != entry.bytes) {
    fail(Code::kBadBundle, path + " has " + std::to_string(file.bytes().size()) +
                               " bytes, the bundle's manifest says " + std::to_string(entry.bytes));
  }
  if (looks_like_library(text_of(file.bytes()))) {
    fail(Code::kBadBundle, path + " is a shared library, which has no place in a bundle");
  }
  if (verify_digest && sha256(file.bytes()) != entry.sha256) {
    fail(Code::kBadBundle, path + " was changed: its SHA-256 is not that of the bundle's manifest");
  }
}

// The names of all that lies in a folder of a bundle, `prefix` before each.
void check_folder(const std::string& folder, const std::string& prefix, const Manifest& manifest) {
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/" + prefix)) {
    const std::string name = prefix + entry.path().filename().string();
    if (name == kEngines) {
      if (entry.symlink_status().type() != std::filesystem::file_type::directory) {
        fail(Code::kBadBundle, folder + "/" + name + " is a link or a file, not a folder");
      }
      check_folder(folder, name + "/", manifest);
    } else if (name != kManifestFile && !manifest.files.contains(name)) {
      fail(Code::kBadBundle, folder + "/" + name + " is not listed in the bundle's manifest");
    }
  }
}

// Holds a graph of the manifest against its files, which know better, and takes from them what only they say.
void check_graph(const std::string& folder, const Manifest& manifest, std::optional<Graph>& graph) {
  if (!graph) return;
  for (const std::string& name : {graph->file, graph->cpu_file}) {
    if (name.empty()) continue;
    const std::string path = folder + "/" + name;
    const MappedFile file(folder, name);
    const OnnxSignature signature = read_signature(file.bytes(), path);
    reconcile(*graph, signature, path);
    for (const std::string& weights : signature.files) {
      if (manifest.files.contains(weights)) continue;
      fail(Code::kBadBundle, path + " keeps numbers in '" + weights + "', which is not a file of the bundle");
    }
    if (name == graph->file) take_contract(*graph, signature, path);
  }
}

std::shared_ptr<const hsm_runtime::Bundle::Impl> open_bundle(const std::string& path, bool verify_digests) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    fail(Code::kBadBundle, path + " is not a folder; name a bundle, such as model.hsm");
  }
  const MappedFile file(path, std::string(kManifestFile));
  auto bundle = std::make_shared<hsm_runtime::Bundle::Impl>();
  bundle->path = path;
  bundle->manifest = parse_manifest(text_of(file.bytes()), path + "/" + std::string(kManifestFile));
  if (const char* name = tokenizer_file(bundle->manifest.tokenizer)) bundle->tokenizer_path = path + "/" + name;
  check_folder(path, "", bundle->manifest);
  for (const auto& [name, entry] : bundle->manifest.files) check_file(path, name, entry, verify_digests);
  check_graph(path, bundle->manifest, bundle->manifest.model);
  check_graph(path, bundle->manifest, bundle->manifest.decode);
  return bundle;
}

}  // namespace
}  // namespace hsm::runtime

namespace hsm_runtime {

Result<Bundle> Bundle::open(const std::string& path, const BundleOptions& options) {
  return hsm::runtime::guarded<Bundle>([&] { return Bundle(hsm::runtime::open_bundle(path, options.verify_digests)); });
}

const std::string& Bundle::path() const { return impl_->path; }
const std::string& Bundle::task() const { return impl_->manifest.task; }
const std::string& Bundle::precision() const { return impl_->manifest.precision; }
const std::string& Bundle::writer_version() const { return impl_->manifest.writer_version; }
const std::string& Bundle::tokenizer() const { return impl_->manifest.tokenizer; }
const std::string& Bundle::tokenizer_path() const { return impl_->tokenizer_path; }
const std::map<std::string, double>& Bundle::tolerances() const { return impl_->manifest.tolerances; }
bool Bundle::has(Part part) const { return impl_->graph(part).has_value(); }

const std::vector<TensorInfo>& Bundle::inputs(Part part) const {
  static const std::vector<TensorInfo> kNone;
  return has(part) ? impl_->graph(part)->inputs : kNone;
}

const std::vector<TensorInfo>& Bundle::outputs(Part part) const {
  static const std::vector<TensorInfo> kNone;
  return has(part) ? impl_->graph(part)->outputs : kNone;
}

}  // namespace hsm_runtime
