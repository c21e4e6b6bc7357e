#include "runtime/onnx_file.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string_view>

#include "runtime/dtypes.h"
#include "runtime/error.h"
#include "runtime/protobuf.h"
#include "runtime/reader.h"

namespace hsm::runtime {
namespace {

using protobuf::Field;
using protobuf::text_of;

class Message : public protobuf::Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& where) : protobuf::Message(bytes, where, "ONNX file") {}
};

// The last field of that number, as protobuf has it.
std::optional<Field> member(std::span<const std::byte> message, std::uint64_t number, const std::string& where) {
  Message reader(message, where);
  std::optional<Field> found;
  while (const auto field = reader.next()) {
    if (field->number == number) found = field;
  }
  return found;
}

// TensorShapeProto.Dimension: dim_value = 1, dim_param = 2. Some converters write a dynamic one as -1.
Dimension read_dimension(std::span<const std::byte> message, const std::string& where) {
  if (const auto size = member(message, 1, where)) {
    const auto known = static_cast<std::int64_t>(size->value);
    return known < 0 ? Dimension(std::string()) : Dimension(known);
  }
  const auto name = member(message, 2, where);
  return name ? text_of(name->bytes) : std::string();
}

// ValueInfoProto: name = 1, type = 2; TypeProto: tensor_type = 1; Tensor: elem_type = 1, shape = 2; dim = 1.
OnnxValue read_value(std::span<const std::byte> message, const std::string& where) {
  OnnxValue info;
  const auto type = member(message, 2, where);
  const auto tensor = type ? member(type->bytes, 1, where) : std::nullopt;
  const auto element = tensor ? member(tensor->bytes, 1, where) : std::nullopt;
  const auto shape = tensor ? member(tensor->bytes, 2, where) : std::nullopt;
  if (element && size_of(static_cast<DType>(element->value)) > 0) info.dtype = static_cast<DType>(element->value);
  if (!shape) return info;
  info.shape.emplace();
  Message reader(shape->bytes, where);
  while (const auto field = reader.next()) {
    if (field->number == 1) info.shape->push_back(read_dimension(field->bytes, where));
  }
  return info;
}

// The text in a field, "" without one: messages have their names in different ones.
std::string name_in(std::span<const std::byte> message, std::uint64_t number, const std::string& where) {
  const auto name = member(message, number, where);
  return name ? text_of(name->bytes) : "";
}

// GraphProto: initializer = 5, input = 11, output = 12. Inputs with initializers are weights, in old files.
void read_graph(std::span<const std::byte> message, const std::string& where, OnnxSignature& signature) {
  std::set<std::string> weights;
  std::vector<std::span<const std::byte>> inputs;
  Message reader(message, where);
  while (const auto field = reader.next()) {
    if (field->number == 5) weights.insert(name_in(field->bytes, 8, where));
    if (field->number == 11) inputs.push_back(field->bytes);
    if (field->number == 12) {
      signature.outputs.emplace(name_in(field->bytes, 1, where), read_value(field->bytes, where));
    }
  }
  for (const auto bytes : inputs) {
    std::string name = name_in(bytes, 1, where);
    if (!weights.contains(name)) signature.inputs.emplace(std::move(name), read_value(bytes, where));
  }
}

// The messages between a ModelProto and its tensors, and the fields that lead from one to the next.
enum class Kind { kModel, kFunction, kGraph, kNode, kAttribute, kSparse, kTensor };
struct Step {
  Kind from;
  std::uint64_t field;
  Kind to;
};
constexpr std::array<Step, 16> kSteps = {{{Kind::kModel, 7, Kind::kGraph},
                                          {Kind::kModel, 25, Kind::kFunction},
                                          {Kind::kFunction, 7, Kind::kNode},
                                          {Kind::kFunction, 11, Kind::kAttribute},
                                          {Kind::kGraph, 1, Kind::kNode},
                                          {Kind::kGraph, 5, Kind::kTensor},
                                          {Kind::kGraph, 15, Kind::kSparse},
                                          {Kind::kNode, 5, Kind::kAttribute},
                                          {Kind::kAttribute, 5, Kind::kTensor},
                                          {Kind::kAttribute, 6, Kind::kGraph},
                                          {Kind::kAttribute, 10, Kind::kTensor},
                                          {Kind::kAttribute, 11, Kind::kGraph},
                                          {Kind::kAttribute, 22, Kind::kSparse},
                                          {Kind::kAttribute, 23, Kind::kSparse},
                                          {Kind::kSparse, 1, Kind::kTensor},
                                          {Kind::kSparse, 2, Kind::kTensor}}};
constexpr int kDeepest = 300;

// Adds the locations in TensorProto.external_data (13), whose entries have a key (1) and a value (2).
void read_files(Kind kind, std::span<const std::byte> message, const std::string& where, int depth,
                std::set<std::string>& files) {
  if (depth > kDeepest) fail(Code::kBadBundle, where + " is nested too deeply");
  Message reader(message, where);
  while (const auto field = reader.next()) {
    if (kind == Kind::kTensor && field->number == 13 && name_in(field->bytes, 1, where) == "location") {
      files.insert(name_in(field->bytes, 2, where));
    }
    for (const Step& step : kSteps) {
      if (step.from == kind && step.field == field->number) {
        read_files(step.to, field->bytes, where, depth + 1, files);
      }
    }
  }
}

// Whether a graph's own tensor may be what the manifest says; what the graph leaves open may be anything.
bool may_be(const OnnxValue& found, DType dtype, const std::vector<Dimension>& shape) {
  if (found.dtype && *found.dtype != dtype) return false;
  if (!found.shape) return true;
  if (found.shape->size() != shape.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t* said = std::get_if<std::int64_t>(&shape[i]);
    const std::int64_t* own = std::get_if<std::int64_t>(&(*found.shape)[i]);
    const bool is_open = own == nullptr && std::get<std::string>((*found.shape)[i]).empty();
    if (!is_open && ((said == nullptr) != (own == nullptr) || (said != nullptr && *said != *own))) return false;
  }
  return true;
}

std::string to_text(DType dtype, const std::vector<Dimension>& shape) {
  return std::string(name_of(dtype)) + " " + hsm::runtime::to_text(shape);
}

std::string to_text(const OnnxValue& value) {
  return std::string(value.dtype ? name_of(*value.dtype) : "of no known type") + " " +
         (value.shape ? hsm::runtime::to_text(*value.shape) : "of no known shape");
}

const OnnxValue* find(const OnnxValues& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? nullptr : &found->second;
}

void compare(const char* side, const std::vector<TensorInfo>& said, const OnnxValues& found, const std::string& where) {
  for (const TensorInfo& info : said) {
    const OnnxValue* own = find(found, info.name);
    if (own == nullptr) {
      fail(Code::kBadBundle, where + " has no " + side + " '" + info.name + "', which the bundle's manifest names");
    }
    if (!may_be(*own, info.dtype, info.shape)) {
      fail(Code::kBadBundle, where + ": the " + side + " '" + info.name + "' is " + to_text(*own) +
                                 ", the bundle's manifest says " + to_text(info.dtype, info.shape));
    }
  }
  if (said.size() < found.size()) {
    fail(Code::kBadBundle, where + " has " + std::to_string(found.size()) + " " + side + "s, the bundle's manifest " +
                               std::to_string(said.size()));
  }
}

bool is_same(const StateTensor& a, const StateTensor& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.capacity_axis == b.capacity_axis &&
         a.rollback == b.rollback && a.spare == b.spare && a.in_place == b.in_place;
}

bool is_same(const StateSpec& a, const StateSpec& b) {
  return a.capacity == b.capacity && a.rollback == b.rollback && a.max_length == b.max_length &&
         a.last_logits == b.last_logits &&
         std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(),
                    [](const StateTensor& left, const StateTensor& right) { return is_same(left, right); });
}

// A state's shape is that of the graph's own tensors.
void check_state(const Graph& graph, const OnnxSignature& signature, const std::string& where) {
  for (const StateTensor& tensor : graph.state->tensors) {
    for (const auto& [name, values] :
         {std::pair(tensor.past(), &signature.inputs), {tensor.present(), &signature.outputs}}) {
      const OnnxValue* own = find(*values, name);
      if (own != nullptr && may_be(*own, tensor.dtype, tensor.shape)) continue;
      fail(Code::kBadBundle, where + ": the state " + tensor.name + " is " + to_text(tensor.dtype, tensor.shape) +
                                 " by the bundle's manifest, and '" + name + "' of the graph is not");
    }
  }
}

// Whole numbers that a JSON member allows; null and absent are open.
std::optional<std::int64_t> whole_or_none(const json::Members& members, std::string_view name,
                                          const std::string& where) {
  for (const auto& [key, value] : members) {
    if (key == name && !value.is_null()) return as<std::int64_t>(value, where);
  }
  return std::nullopt;
}

std::string text_or_none(const json::Members& members, std::string_view name) {
  for (const auto& [key, value] : members) {
    const std::string* text = std::get_if<std::string>(&value.value);
    if (key == name && text != nullptr) return *text;
  }
  return "";
}

}  // namespace

OnnxSignature read_signature(std::span<const std::byte> file, const std::string& where) {
  OnnxSignature signature;
  std::optional<Field> graph;
  Message reader(file, where);
  while (const auto field = reader.next()) {  // ModelProto: graph = 7, metadata_props = 14
    if (field->number == 7 && graph) fail(Code::kBadBundle, where + " has two graphs");  // others would join them
    if (field->number == 7) graph = field;
    if (field->number != 14) continue;
    const auto key = member(field->bytes, 1, where), value = member(field->bytes, 2, where);
    if (key && value) signature.metadata[text_of(key->bytes)] = text_of(value->bytes);
  }
  if (!graph) fail(Code::kBadBundle, where + " is no ONNX file");
  read_graph(graph->bytes, where, signature);
  read_files(Kind::kModel, file, where, 0, signature.files);
  return signature;
}

void reconcile(const Graph& graph, const OnnxSignature& signature, const std::string& where) {
  compare("input", graph.inputs, signature.inputs, where);
  compare("output", graph.outputs, signature.outputs, where);
  if (!graph.state) return;
  check_state(graph, signature, where);
  const auto found = signature.metadata.find("hsm_export.state");
  if (found == signature.metadata.end()) return;
  const StateSpec state = read_state(json::parse(found->second, where + ": its state"), where + ": its state");
  if (!is_same(*graph.state, state)) {
    fail(Code::kBadBundle, where + ": its state is not the one that the bundle's manifest describes");
  }
}

void take_contract(Graph& graph, const OnnxSignature& signature, const std::string& where) {
  const auto digest = signature.metadata.find("hsm_export.source_sha256");
  if (graph.state && digest != signature.metadata.end()) graph.state->model = digest->second;
  const auto found = signature.metadata.find("hsm_export.inputs");
  if (found == signature.metadata.end()) return;
  const std::string inputs = where + ": its inputs";
  const json::Value document = json::parse(found->second, inputs);
  for (const json::Value& item : as<json::Array>(document, inputs)) {
    const json::Members& members = as<json::Members>(item, inputs);
    Contract contract{whole_or_none(members, "low", inputs), whole_or_none(members, "high", inputs),
                      text_or_none(members, "counts")};
    if (contract.low || contract.high) graph.contracts[text_or_none(members, "name")] = std::move(contract);
  }
}

}  // namespace hsm::runtime
