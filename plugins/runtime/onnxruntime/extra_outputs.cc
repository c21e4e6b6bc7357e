#include "runtime/onnxruntime/extra_outputs.h"

#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include "runtime/dtypes.h"
#include "runtime/error.h"
#include "runtime/protobuf.h"

namespace hsm::runtime::ort {
namespace {

template <typename T>
using Handle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

using hsm_runtime::DType;
using hsm_runtime::TensorInfo;

// ModelProto: graph = 7; GraphProto: node = 1; NodeProto: output = 2.
std::set<std::string> written_names(std::span<const std::byte> model, const std::string& where) {
  const auto fields = [&](std::span<const std::byte> bytes) { return protobuf::Message(bytes, where, "ONNX file"); };
  std::set<std::string> names;
  auto whole = fields(model);
  while (const auto graph = whole.next()) {
    if (graph->number != 7) continue;
    auto nodes = fields(graph->bytes);
    while (const auto node = nodes.next()) {
      if (node->number != 1) continue;
      auto outputs = fields(node->bytes);
      while (const auto output = outputs.next()) {
        if (output->number == 2) names.insert(protobuf::text_of(output->bytes));
      }
    }
  }
  return names;
}

void append_varint(std::string& bytes, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  bytes += static_cast<char>(value);
}

// A field that has a length.
std::string field(std::uint64_t number, const std::string& content) {
  std::string bytes;
  append_varint(bytes, number << 3 | 2);
  append_varint(bytes, content.size());
  return bytes + content;
}

void check(const OrtApi& api, OrtStatus* status) {
  require(api, status, Code::kNoBackend, "ONNX Runtime refuses an output");
}

TensorInfo describe(const OrtApi& api, const OrtSession* session, std::size_t index, const std::string& name) {
  OrtTypeInfo* made = nullptr;
  check(api, api.SessionGetOutputTypeInfo(session, index, &made));
  const Handle<OrtTypeInfo> type(made, api.ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api, api.CastTypeInfoToTensorInfo(made, &tensor));
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  if (tensor != nullptr) check(api, api.GetTensorElementType(tensor, &element));
  TensorInfo info{name, static_cast<DType>(element), {}};
  if (size_of(info.dtype) == 0) fail(Code::kInvalidArgument, "'" + name + "' is no tensor of a type that can be read");
  std::size_t rank = 0;
  check(api, api.GetDimensionsCount(tensor, &rank));
  std::vector<std::int64_t> sizes(rank);
  std::vector<const char*> names(rank);
  check(api, api.GetDimensions(tensor, sizes.data(), rank));
  check(api, api.GetSymbolicDimensions(tensor, names.data(), rank));
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const bool has_name = names[axis] != nullptr && *names[axis] != '\0';
    if (sizes[axis] >= 0) {
      info.shape.emplace_back(sizes[axis]);
    } else {
      info.shape.emplace_back(has_name ? std::string(names[axis]) : name + "." + std::to_string(axis));
    }
  }
  return info;
}

}  // namespace

std::vector<std::byte> with_outputs(std::span<const std::byte> model, std::span<const std::string> names,
                                    const std::string& where) {
  const std::set<std::string> written = written_names(model, where);
  std::string graph;
  for (const std::string& name : names) {
    if (!written.contains(name)) {
      fail(Code::kInvalidArgument, where + " has no tensor '" + name + "' that could be an output");
    }
    graph += field(12, field(1, name));  // GraphProto.output, ValueInfoProto.name
  }
  // Messages that follow each other are one: protobuf adds these outputs to the graph's own.
  const std::string more = field(7, graph);
  std::vector<std::byte> bytes(model.begin(), model.end());
  for (const char c : more) bytes.push_back(static_cast<std::byte>(c));
  return bytes;
}

std::vector<TensorInfo> last_outputs(const OrtApi& api, const OrtSession* session, std::span<const std::string> names) {
  std::size_t count = 0;
  check(api, api.SessionGetOutputCount(session, &count));
  std::vector<TensorInfo> infos;
  for (std::size_t i = 0; i < names.size(); ++i) {
    infos.push_back(describe(api, session, count - names.size() + i, names[i]));
  }
  return infos;
}

}  // namespace hsm::runtime::ort
