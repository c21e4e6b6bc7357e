// libFuzzer target for the files that strangers write: a bundle's manifest, and the JSON and .safetensors under it.
//
// Every input is read as a manifest and as a .safetensors file. Each reader must take it or refuse it with a code and
// one printable sentence; what is taken must be as the rest of the library relies on it.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/manifest.h"
#include "runtime/safetensors.h"

namespace hsm::runtime {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "not as promised: %s\n", what);
  std::abort();
}

// Anything but an Error ends the process.
void taken_or_refused(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    const std::string_view text = error.what();
    require(error.code == Code::kBadBundle, "refusals are kBadBundle");
    require(!text.empty() && text.size() < 600, "refusals are short");
    for (const unsigned char c : text) require(c >= 0x20 && c < 0x7f, "refusals are printable");
  }
}

bool is_listed(const Manifest& manifest, const std::string& name) {
  return manifest.files.contains(name) && name.find("..") != 0 && name.front() != '/';
}

void check_graph(const Manifest& manifest, const std::optional<Graph>& graph) {
  if (!graph) return;
  require(is_listed(manifest, graph->file) && is_listed(manifest, graph->on_cpu()), "graphs are listed");
  require(!graph->inputs.empty() && !graph->outputs.empty(), "graphs have inputs and outputs");
  if (!graph->state) return;
  for (const StateTensor& tensor : graph->state->tensors) {
    require(!tensor.shape.empty() && std::holds_alternative<std::string>(tensor.shape[0]), "states have a batch");
    require(size_of(tensor.dtype) > 0, "states have a type");
  }
}

void read_manifest(std::string_view text) {
  const Manifest manifest = parse_manifest(text, "manifest.json");
  require(manifest.model || manifest.decode, "there is a graph");
  check_graph(manifest, manifest.model);
  check_graph(manifest, manifest.decode);
  for (const Engine& engine : manifest.engines) require(is_listed(manifest, engine.file), "engines are listed");
  for (const OperatorLibrary& library : manifest.libraries) {
    require(library.file.starts_with("lib") && library.file.ends_with(".so"), "libraries are named as such");
    require(library.file.find('/') == std::string::npos, "libraries are in no folder");
    require(library.sha256.size() == 64 && !library.operators.empty(), "libraries are whole");
  }
  for (const auto& [name, entry] : manifest.files) {
    const std::string inner = name.starts_with("engines/") ? name.substr(8) : name;
    require(inner.find('/') == std::string::npos && inner.find('\0') == std::string::npos, "names are plain");
    require(entry.sha256.size() == 64, "digests are whole");
  }
}

// Of this process, in memory where the system has such a place.
class ScratchFile {
 public:
  ScratchFile() : folder_(std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp") {
    name_ = "hsm-fuzz-" + std::to_string(getpid());
  }
  ~ScratchFile() { std::remove((folder_ + "/" + name_).c_str()); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  void read_safetensors(std::string_view bytes) const {
    std::ofstream(folder_ + "/" + name_, std::ios::binary | std::ios::trunc) << bytes;
    const SafetensorsFile file(folder_, name_);
    unsigned sum = 0;
    for (const auto& [name, tensor] : file.tensors()) {
      for (const std::byte byte : tensor.data) sum += static_cast<unsigned>(byte);
    }
    volatile unsigned seen = sum;  // so that AddressSanitizer sees every byte read
    static_cast<void>(seen);
  }

 private:
  std::string folder_, name_;
};

}  // namespace
}  // namespace hsm::runtime

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hsm::runtime;  // NOLINT
  static const ScratchFile scratch;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  taken_or_refused([&] { json::parse(bytes, "document"); });
  taken_or_refused([&] { read_manifest(bytes); });
  taken_or_refused([&] { scratch.read_safetensors(bytes); });
  return 0;
}
