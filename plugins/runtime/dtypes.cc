#include "runtime/dtypes.h"

#include <array>

#include "hsm_runtime/status.h"

namespace hsm_runtime {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  std::size_t size;
};

constexpr std::array<Entry, 9> kTypes = {{{DType::kFloat32, "float32", 4},
                                          {DType::kFloat16, "float16", 2},
                                          {DType::kBFloat16, "bfloat16", 2},
                                          {DType::kFloat64, "float64", 8},
                                          {DType::kInt64, "int64", 8},
                                          {DType::kInt32, "int32", 4},
                                          {DType::kInt8, "int8", 1},
                                          {DType::kUInt8, "uint8", 1},
                                          {DType::kBool, "bool", 1}}};

const Entry* find(DType dtype) {
  for (const Entry& entry : kTypes) {
    if (entry.dtype == dtype) return &entry;
  }
  return nullptr;
}

}  // namespace

std::size_t size_of(DType dtype) {
  const Entry* entry = find(dtype);
  return entry == nullptr ? 0 : entry->size;
}

std::string_view name_of(DType dtype) {
  const Entry* entry = find(dtype);
  return entry == nullptr ? "unknown" : entry->name;
}

std::size_t Tensor::size() const {
  std::size_t count = 1;
  for (const std::int64_t dimension : shape_) count *= static_cast<std::size_t>(dimension);
  return count;
}

std::string_view name_of(Code code) {
  constexpr std::array<std::string_view, 9> kNames = {"ok",          "invalid argument", "bad bundle",
                                                      "no back end", "run failed",       "out of memory",
                                                      "internal",    "unavailable",      "cancelled"};
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "unknown";
}

}  // namespace hsm_runtime

namespace hsm::runtime {
namespace {

std::string text_of(std::int64_t size) { return std::to_string(size); }
std::string text_of(const hsm_runtime::Dimension& dimension) {
  const std::string* name = std::get_if<std::string>(&dimension);
  return name != nullptr ? *name : std::to_string(std::get<std::int64_t>(dimension));
}

template <typename T>
std::string join(std::span<const T> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + text_of(shape[i]);
  return text + ")";
}

}  // namespace

std::optional<hsm_runtime::DType> dtype_from_name(std::string_view name) {
  for (const auto& entry : hsm_runtime::kTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

std::string to_text(std::span<const std::int64_t> shape) { return join(shape); }
std::string to_text(std::span<const hsm_runtime::Dimension> shape) { return join(shape); }

}  // namespace hsm::runtime
