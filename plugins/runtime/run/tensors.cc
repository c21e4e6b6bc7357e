#include "runtime/run/tensors.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/error.h"

namespace hsm::run {
namespace {

using hsm_runtime::DType;
using runtime::Code;
using runtime::Error;
using runtime::fail;
using runtime::StoredTensor;

template <typename T>
T load(const void* data, std::size_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

// To the nearest, ties to even; a NaN stays one.
std::uint16_t bfloat16_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double from_float16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const double fraction = bits & 1023, sign = bits >> 15 != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25));
}

}  // namespace

std::string stored_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return "F64";
    case DType::kFloat32:
      return "F32";
    case DType::kFloat16:
      return "F16";
    case DType::kBFloat16:
      return "BF16";
    case DType::kInt64:
      return "I64";
    case DType::kInt32:
      return "I32";
    case DType::kInt8:
      return "I8";
    case DType::kUInt8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  fail(Code::kInternal, "no .safetensors type for " + std::string(name_of(dtype)));
}

std::vector<std::byte> bytes_for(const hsm_runtime::TensorInfo& info, const StoredTensor& stored) {
  if (stored.dtype == stored_name(info.dtype)) return {stored.data.begin(), stored.data.end()};
  if (info.dtype != DType::kBFloat16 || stored.dtype != "F32") {
    fail(Code::kBadBundle, "'" + info.name + "' is stored as " + stored.dtype + "; the model takes " +
                               stored_name(info.dtype) + ", " + std::string(name_of(info.dtype)));
  }
  std::vector<std::byte> bytes(stored.data.size() / 2);
  for (std::size_t i = 0; i < bytes.size() / 2; ++i) {
    const std::uint16_t rounded = bfloat16_of(load<float>(stored.data.data(), i));
    std::memcpy(bytes.data() + i * sizeof rounded, &rounded, sizeof rounded);
  }
  return bytes;
}

double number_at(DType dtype, const void* data, std::size_t index) {
  switch (dtype) {
    case DType::kFloat64:
      return load<double>(data, index);
    case DType::kFloat32:
      return load<float>(data, index);
    case DType::kFloat16:
      return from_float16(load<std::uint16_t>(data, index));
    case DType::kBFloat16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(data, index)) << 16);
    case DType::kInt64:
      return static_cast<double>(load<std::int64_t>(data, index));
    case DType::kInt32:
      return load<std::int32_t>(data, index);
    case DType::kInt8:
      return load<std::int8_t>(data, index);
    case DType::kUInt8:
    case DType::kBool:
      return load<std::uint8_t>(data, index);
  }
  return NAN;
}

double number_at(const hsm_runtime::Tensor& tensor, std::size_t index) {
  return number_at(tensor.dtype(), tensor.data(), index);
}

void write_outputs(const std::string& path, std::span<const hsm_runtime::Tensor> outputs) {
  std::map<std::string, StoredTensor> stored;
  for (const hsm_runtime::Tensor& tensor : outputs) {
    const std::span<const std::byte> bytes(static_cast<const std::byte*>(tensor.data()),
                                           tensor.size() * size_of(tensor.dtype()));
    stored[tensor.name()] = {stored_name(tensor.dtype()), {tensor.shape().begin(), tensor.shape().end()}, bytes};
  }
  try {
    runtime::write_safetensors(path, stored, {});
  } catch (const Error& error) {
    fail(Code::kBadBundle, error.what());  // a file, like the others that cannot be used
  }
}

}  // namespace hsm::run
