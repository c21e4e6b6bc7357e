// A bundle's manifest.json: what exporter/hsm_export/formats/bundle_manifest.py writes, and the same rules.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_runtime/tensor.h"
#include "runtime/json.h"

namespace hsm::runtime {

using hsm_runtime::Dimension;
using hsm_runtime::DType;
using hsm_runtime::TensorInfo;

constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20;
constexpr std::string_view kManifestFile = "manifest.json";

// How tokens are taken back: by moving the position; the same, for as many as there are spare slots; or only by a copy
// that was taken before.
enum class Rollback { kPosition, kSlots, kSnapshot };

// The word that stands for it in JSON.
std::string_view name_of(Rollback rollback);

// One tensor of a decoding model's state; the shape starts with "batch".
struct StateTensor {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Dimension> shape;
  std::size_t capacity_axis = 0;  // the size that is the capacity in tokens; 0: the tensor does not grow
  Rollback rollback = Rollback::kSnapshot;
  std::int64_t spare = 0;  // slots beyond those that are read, for kSlots
  bool in_place = false;   // one buffer may be both past and present where the operators' own kernels run

  std::string past() const { return "past." + name; }
  std::string present() const { return "present." + name; }
};

// What a sequence carries from call to call.
struct StateSpec {
  std::vector<StateTensor> tensors;
  std::optional<std::int64_t> capacity;  // none: the host chooses it, or no tensor grows
  std::int64_t rollback = 0;
  std::int64_t max_length = 0;  // 0: any
  bool last_logits = false;
  std::string model;  // SHA-256 of the model's configuration and weights; "" where the writer did not know it
};

// Which whole numbers an input takes.
struct Contract {
  std::optional<std::int64_t> low, high;  // none: the file does not say
  std::string counts;                     // of numbers of valid tokens, the dimension that they count; "" for others
};

struct Graph {
  std::string file;
  std::string cpu_file;  // an equal graph in types that CPUs compute in; "" where `file` is that
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
  std::optional<StateSpec> state;
  std::map<std::string, Contract, std::less<>> contracts = {};  // by input, as the graph's own file says

  const std::string& on_cpu() const { return cpu_file.empty() ? file : cpu_file; }
};

struct Engine {
  std::string file;
  std::string of;
  std::string target;
  std::string version;
  std::vector<std::string> architectures;
  bool plugins = false;
  bool embedded_plugins = false;
};

// A library of operators that are not ours: installed where the bundle runs, and not in it.
struct OperatorLibrary {
  std::string file;     // lib<name>_<adapter>.so
  std::string adapter;  // "onnxruntime", "onnxruntime_cuda" or "tensorrt"
  std::string sha256;
  std::vector<std::string> operators;
};

struct FileEntry {
  std::uint64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::string writer_version;
  std::string task;
  std::string precision;
  std::optional<Graph> model;
  std::optional<Graph> decode;
  std::vector<Engine> engines;
  std::string tokenizer;  // "bytes", "characters", "rwkv", "sentencepiece", "huggingface" or ""
  std::map<std::string, double> tolerances;
  std::map<std::string, FileEntry> files;
  std::vector<OperatorLibrary> libraries;  // of schema 2
};

// The file of a kind of tokenizer in a bundle; NULL for kinds that need none, and for what is no kind.
const char* tokenizer_file(std::string_view kind);

// What `StateSpec.to_json` of the Python package writes. Throws Error(kBadBundle).
StateSpec read_state(const json::Value& value, const std::string& where);

// Throws Error(kBadBundle) for a manifest that is too large, no JSON, of another schema, or says anything unknown,
// unsafe or contradictory. `where` names it.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace hsm::runtime
