#include "runtime/manifest.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>
#include <tuple>

#include "runtime/dtypes.h"
#include "runtime/error.h"
#include "runtime/reader.h"

namespace hsm::runtime {
namespace {

constexpr std::int64_t kLargestSize = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t kLargestFile = std::int64_t{1} << 53;

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  fail(Code::kBadBundle, where + ": " + what);
}

// Compiled once: that takes longer than all else in a manifest.
struct Patterns {
  std::regex file{"(engines/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}"};
  std::regex engine{R"(engines/.+\.engine)"};
  std::regex sha256{"[0-9a-f]{64}"};
  std::regex architecture{R"(sm[0-9]{2,3}\+?)"};
  std::regex version{R"([0-9]+(\.[0-9]+){1,3})"};
  std::regex operators_library{R"(lib[A-Za-z_][A-Za-z0-9_]{0,99}_(onnxruntime|onnxruntime_cuda|tensorrt)\.so)"};
  std::regex operator_name{"[A-Za-z][A-Za-z0-9_.]{0,79}::[A-Za-z_][A-Za-z0-9_]{0,79}"};
  std::regex library{R"(.*\.(so(\.[0-9.]+)?|dll|dylib|pyd))", std::regex::icase | std::regex::ECMAScript};
};

const Patterns& patterns() {
  static const Patterns compiled;
  return compiled;
}

bool matches(const std::string& text, const std::regex& pattern) {
  // Names longer than any pattern allows are not for a backtracking matcher.
  return text.size() <= 160 && std::regex_match(text, pattern);
}

Dimension read_dimension(const json::Value& value, const std::string& where) {
  if (const std::string* name = std::get_if<std::string>(&value.value)) {
    if (name->empty()) refuse(where, "a dimension has no name");
    return *name;
  }
  const std::int64_t size = as<std::int64_t>(value, where);
  if (size < 1 || size > kLargestSize) refuse(where, "a dimension of " + std::to_string(size));
  return size;
}

std::vector<Dimension> read_shape(const json::Value& value, const std::string& where) {
  std::vector<Dimension> shape;
  for (const json::Value& item : as<json::Array>(value, where)) shape.push_back(read_dimension(item, where));
  return shape;
}

DType read_dtype(const std::string& name, const std::string& where) {
  const std::optional<DType> dtype = dtype_from_name(name);
  if (!dtype) refuse(where, "the element type '" + name + "' is unknown");
  return *dtype;
}

std::vector<TensorInfo> read_tensors(const json::Value& value, const std::string& where) {
  std::vector<TensorInfo> tensors;
  std::set<std::string> names;
  for (const json::Value& item : as<json::Array>(value, where)) {
    ObjectReader reader(item, where);
    TensorInfo tensor{reader.text("name"), read_dtype(reader.text("dtype"), where),
                      read_shape(reader.value("shape"), reader.path("shape"))};
    reader.finish();
    if (tensor.name.empty()) refuse(where, "a tensor has no name");
    if (!names.insert(tensor.name).second) refuse(where, "the name '" + tensor.name + "' comes twice");
    tensors.push_back(std::move(tensor));
  }
  if (tensors.empty()) refuse(where, "it is empty");
  return tensors;
}

// The properties of a tensor as the state's first schema named them: by what it called a kind.
void read_kind(ObjectReader& reader, StateTensor& tensor) {
  const std::string kind = reader.one_of("kind", {"ring", "cache", "taylor"});
  tensor.capacity_axis = kind == "cache" ? 1 : 0;
  tensor.rollback = kind == "ring" ? Rollback::kSlots : kind == "cache" ? Rollback::kPosition : Rollback::kSnapshot;
}

void read_properties(ObjectReader& reader, StateTensor& tensor) {
  if (!reader.value("capacity_axis").is_null()) {
    tensor.capacity_axis = static_cast<std::size_t>(reader.whole("capacity_axis", 1, kLargestSize));
  }
  const std::string rollback = reader.one_of("rollback", {"position", "slots", "snapshot"});
  for (const Rollback way : {Rollback::kPosition, Rollback::kSlots, Rollback::kSnapshot}) {
    if (rollback == name_of(way)) tensor.rollback = way;
  }
  tensor.in_place = reader.get<bool>("in_place");
}

void check_shape(const StateTensor& tensor, const std::string& where) {
  const auto is_name = [&](std::size_t i, std::string_view name) {
    const std::string* text = std::get_if<std::string>(&tensor.shape[i]);
    return text != nullptr && *text == name;
  };
  const std::size_t rank = tensor.shape.size();
  const bool has_axis = tensor.capacity_axis < rank && (tensor.rollback != Rollback::kSlots || rank > 1);
  bool good = rank > 0 && has_axis && is_name(0, "batch");
  for (std::size_t i = 1; good && i < rank; ++i) {
    const bool chosen = i == tensor.capacity_axis && is_name(i, "capacity");
    good = chosen || std::holds_alternative<std::int64_t>(tensor.shape[i]);
  }
  if (!good) refuse(where, "the shape of " + tensor.name);
}

// The state has a schema of its own, in which newer writers may add members.
StateTensor read_state_tensor(const json::Value& value, const std::string& where, std::int64_t schema) {
  ObjectReader reader(value, where);
  StateTensor tensor;
  tensor.name = reader.text("name");
  tensor.dtype = read_dtype(reader.one_of("dtype", {"float32", "float16", "bfloat16", "float64", "int64"}), where);
  tensor.shape = read_shape(reader.value("shape"), reader.path("shape"));
  tensor.spare = reader.whole("spare", 0, kLargestSize);
  if (schema == 1) {
    read_kind(reader, tensor);
  } else {
    read_properties(reader, tensor);
  }
  check_shape(tensor, where);
  return tensor;
}

}  // namespace

StateSpec read_state(const json::Value& value, const std::string& where) {
  ObjectReader reader(value, where);
  const std::int64_t schema = reader.whole("schema", 0, kLargestSize);
  if (schema != 1 && schema != 2) refuse(where, "its schema is not one that this version reads");
  StateSpec state;
  for (const json::Value& item : reader.get<json::Array>("tensors")) {
    state.tensors.push_back(read_state_tensor(item, reader.path("tensors"), schema));
  }
  if (!reader.value("capacity").is_null()) state.capacity = reader.whole("capacity", 1, kLargestSize);
  state.rollback = reader.whole("rollback", 0, kLargestSize);
  state.max_length = reader.whole("max_length", 0, kLargestSize);
  state.last_logits = reader.get<bool>("last_logits");
  if (reader.has("model")) state.model = reader.text("model");
  if (!state.model.empty() && !matches(state.model, patterns().sha256)) refuse(where, "the SHA-256 of its model");
  return state;
}

namespace {

using Named = std::map<std::string, const TensorInfo*, std::less<>>;

Named by_name(const std::vector<TensorInfo>& tensors) {
  Named named;
  for (const TensorInfo& tensor : tensors) named.emplace(tensor.name, &tensor);
  return named;
}

// A decoding model reads tokens, position, lengths and its state, and writes logits and its state: docs/decoding.md.
void check_decoding(const Graph& graph, const std::string& where) {
  Named inputs = by_name(graph.inputs);
  const Named outputs = by_name(graph.outputs);
  for (const auto& [name, rank] : {std::pair("tokens", 2U), {"position", 1U}, {"lengths", 1U}}) {
    const auto found = inputs.find(name);
    if (found == inputs.end() || found->second->dtype != DType::kInt64 || found->second->shape.size() != rank) {
      refuse(where, "it lacks the input '" + std::string(name) + "' of int64 and rank " + std::to_string(rank));
    }
    inputs.erase(found);
  }
  const auto logits = outputs.find("logits");
  if (logits == outputs.end() || logits->second->dtype != DType::kFloat32 || logits->second->shape.size() != 3 ||
      !std::holds_alternative<std::int64_t>(logits->second->shape[2])) {
    refuse(where, "it lacks the output 'logits' of float32 (batch, length, vocabulary)");
  }
  for (const StateTensor& tensor : graph.state->tensors) {
    if (inputs.erase(tensor.past()) == 0 || !outputs.contains(tensor.present())) {
      refuse(where, "its state has the tensor " + tensor.name + ", which the graph lacks, or has it twice");
    }
  }
  if (!inputs.empty()) refuse(where, "its input '" + inputs.begin()->first + "' belongs to no state");
}

std::string read_cpu_file(ObjectReader& graph, const std::string& part) {
  if (graph.value("cpu_file").is_null()) return "";
  return graph.one_of("cpu_file", {part + ".cpu.onnx"});
}

std::optional<Graph> read_graph(ObjectReader& manifest, const std::string& part, bool decodes) {
  const json::Value& value = manifest.value(part);
  if (value.is_null()) return std::nullopt;
  const std::string where = manifest.path(part);
  ObjectReader reader(value, where);
  Graph graph{reader.text("file"), read_cpu_file(reader, part),
              read_tensors(reader.value("inputs"), reader.path("inputs")),
              read_tensors(reader.value("outputs"), reader.path("outputs")), std::nullopt};
  if (graph.file != part + ".onnx") refuse(where, "its file is '" + graph.file + "', not " + part + ".onnx");
  if (decodes) {
    graph.state = read_state(reader.value("state"), reader.path("state"));
    check_decoding(graph, where);
  }
  reader.finish();
  return graph;
}

void check_profile(const json::Value& profile, const std::string& where) {
  for (const auto& [dimension, sizes] : as<json::Members>(profile, where)) {
    ObjectReader reader(sizes, where + "." + dimension);
    const std::int64_t least = reader.whole("min", 1, kLargestFile);
    const std::int64_t best = reader.whole("opt", least, kLargestFile);
    std::ignore = reader.whole("max", best, kLargestFile);
    reader.finish();
  }
}

Engine read_engine(const json::Value& value, const std::string& where) {
  ObjectReader reader(value, where);
  Engine engine{reader.text("file"),
                reader.one_of("of", {"model", "decode"}),
                reader.one_of("target", {"tensorrt", "tensorrt-rtx"}),
                reader.text("version"),
                {},
                false,
                false};
  for (const json::Value& item : reader.get<json::Array>("architectures")) {
    engine.architectures.push_back(as<std::string>(item, reader.path("architectures")));
    if (!matches(engine.architectures.back(), patterns().architecture)) refuse(where, "an architecture is malformed");
  }
  engine.plugins = reader.get<bool>("plugins");
  engine.embedded_plugins = reader.get<bool>("embedded_plugins");
  for (const json::Value& profile : reader.get<json::Array>("profiles"))
    check_profile(profile, reader.path("profiles"));
  reader.finish();
  if (!matches(engine.file, patterns().engine)) refuse(where, engine.file + " is not named engines/NAME.engine");
  if (!matches(engine.version, patterns().version)) refuse(where, "the version '" + engine.version + "'");
  if (engine.embedded_plugins && !engine.plugins) refuse(where, "it has embedded plugins and no plugins");
  return engine;
}

std::string read_tokenizer(const json::Value& value, const std::string& where) {
  if (value.is_null()) return "";
  ObjectReader reader(value, where);
  std::string kind = reader.one_of("kind", {"bytes", "characters", "rwkv", "sentencepiece", "huggingface"});
  if (const char* file = tokenizer_file(kind); file != nullptr && reader.text("file") != file) {
    refuse(where, std::string("its file is not ") + file);
  }
  reader.finish();
  return kind;
}

std::map<std::string, double> read_self_test(const json::Value& value, const std::string& where) {
  ObjectReader reader(value, where);
  if (reader.text("file") != "self-test.safetensors") refuse(where, "its file is not self-test.safetensors");
  std::map<std::string, double> tolerances;
  for (const auto& [name, item] : reader.get<json::Members>("tolerances")) {
    const double tolerance = as_number(item, reader.path("tolerances"));
    if (!(tolerance >= 0) || !std::isfinite(tolerance)) refuse(where, "the tolerance for " + name);
    tolerances[name] = tolerance;
  }
  reader.finish();
  if (tolerances.empty()) refuse(where, "it compares nothing");
  return tolerances;
}

std::map<std::string, FileEntry> read_files(const json::Value& value, const std::string& where) {
  std::map<std::string, FileEntry> files;
  for (const auto& [name, item] : as<json::Members>(value, where)) {
    if (!matches(name, patterns().file) || name == kManifestFile) {
      refuse(where, "the file name '" + name + "' is not allowed in a bundle");
    }
    if (matches(name, patterns().library)) refuse(where, name + " is a shared library, which has no place in a bundle");
    ObjectReader reader(item, where + "." + name);
    FileEntry entry{static_cast<std::uint64_t>(reader.whole("bytes", 0, kLargestFile)), reader.text("sha256")};
    reader.finish();
    if (!matches(entry.sha256, patterns().sha256)) refuse(where, "the SHA-256 of " + name + " is malformed");
    files.emplace(name, std::move(entry));
  }
  return files;
}

OperatorLibrary read_library(const json::Value& value, const std::string& where) {
  ObjectReader reader(value, where);
  OperatorLibrary library{reader.text("file"),
                          reader.one_of("adapter", {"onnxruntime", "onnxruntime_cuda", "tensorrt"}),
                          reader.text("sha256"),
                          {}};
  for (const json::Value& item : reader.get<json::Array>("operators")) {
    library.operators.push_back(as<std::string>(item, reader.path("operators")));
    if (!matches(library.operators.back(), patterns().operator_name)) refuse(where, "an operator's name is malformed");
  }
  reader.finish();
  const bool is_named = matches(library.file, patterns().operators_library) && !library.file.starts_with("libhsm_");
  if (!is_named || !library.file.ends_with("_" + library.adapter + ".so")) {
    refuse(where, "the library '" + library.file + "' is not named lib<name>_" + library.adapter + ".so");
  }
  if (!matches(library.sha256, patterns().sha256)) refuse(where, "the SHA-256 of " + library.file + " is malformed");
  if (library.operators.empty()) refuse(where, library.file + " has no operators");
  return library;
}

std::vector<OperatorLibrary> read_libraries(const json::Value& value, const std::string& where) {
  std::vector<OperatorLibrary> libraries;
  std::set<std::string> names;
  for (const json::Value& item : as<json::Array>(value, where)) {
    libraries.push_back(read_library(item, where));
    if (!names.insert(libraries.back().file).second) refuse(where, libraries.back().file + " is described twice");
  }
  if (libraries.empty()) refuse(where, "it is empty");
  return libraries;
}

// Every file that something names is listed, and an engine's folder holds nothing else.
void check_listing(const Manifest& manifest, const std::string& where) {
  std::set<std::string> named = {"self-test.safetensors"};
  for (const auto* graph : {&manifest.model, &manifest.decode}) {
    if (*graph) named.insert({(*graph)->file, (*graph)->on_cpu()});
  }
  if (const char* file = tokenizer_file(manifest.tokenizer)) named.insert(file);
  for (const Engine& engine : manifest.engines) {
    if (!named.insert(engine.file).second) refuse(where, engine.file + " is described twice");
    named.insert(engine.file + ".json");
  }
  for (const std::string& name : named) {
    if (!manifest.files.contains(name)) refuse(where, "'" + name + "' is not among its files");
  }
  for (const auto& [name, entry] : manifest.files) {
    if (name.starts_with("engines/") && !named.contains(name)) refuse(where, name + " belongs to no engine");
  }
}

void check_parts(const Manifest& manifest, const std::string& where) {
  if (!manifest.model && !manifest.decode) refuse(where, "it has neither a model nor a decoding model");
  const auto has = [&](std::string_view part) {
    return (part == "model" && manifest.model) || (part == "decode" && manifest.decode);
  };
  for (const Engine& engine : manifest.engines) {
    if (!has(engine.of)) refuse(where, engine.file + " was built from a part that the bundle lacks");
  }
  for (const auto& [name, tolerance] : manifest.tolerances) {
    if (!has(std::string_view(name).substr(0, name.find('.')))) refuse(where, "the self-test names " + name);
  }
}

}  // namespace

std::string_view name_of(Rollback rollback) {
  switch (rollback) {
    case Rollback::kPosition:
      return "position";
    case Rollback::kSlots:
      return "slots";
    default:
      return "snapshot";
  }
}

const char* tokenizer_file(std::string_view kind) {
  if (kind == "characters") return "characters.json";
  if (kind == "rwkv") return "rwkv_vocab.txt";
  if (kind == "sentencepiece") return "tokenizer.model";
  return kind == "huggingface" ? "tokenizer.json" : nullptr;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  if (text.size() > kMaxManifestBytes) fail(Code::kBadBundle, where + " is larger than 16 MB");
  const json::Value document = json::parse(text, where);
  ObjectReader reader(document, where);
  if (reader.text("format") != "hsm-bundle") refuse(where, "it is not the manifest of an hsm-bundle");
  const std::int64_t schema = reader.get<std::int64_t>("schema");
  if (schema != 1 && schema != 2) {
    refuse(where, "it has schema " + std::to_string(schema) + "; this version reads 1 and 2");
  }

  Manifest manifest;
  manifest.writer_version = reader.text("hsm_export");
  manifest.task = reader.one_of("task", {"language_model", "classification", ""});
  manifest.precision = reader.one_of("precision", {"fp32", "fp16", "bf16"});
  manifest.model = read_graph(reader, "model", false);
  manifest.decode = read_graph(reader, "decode", true);
  for (const json::Value& item : reader.get<json::Array>("engines")) {
    manifest.engines.push_back(read_engine(item, reader.path("engines")));
  }
  manifest.tokenizer = read_tokenizer(reader.value("tokenizer"), reader.path("tokenizer"));
  manifest.tolerances = read_self_test(reader.value("self_test"), reader.path("self_test"));
  manifest.files = read_files(reader.value("files"), reader.path("files"));
  if (schema == 2) manifest.libraries = read_libraries(reader.value("libraries"), reader.path("libraries"));
  reader.finish();
  check_listing(manifest, where);
  check_parts(manifest, where);
  return manifest;
}

}  // namespace hsm::runtime
