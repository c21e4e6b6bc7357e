// Element types and the threading argument that every kernel shares. No framework header belongs in
// plugins/hsm_operators.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace hsm {

enum class DType : std::uint8_t { kFloat32, kFloat16, kBFloat16, kInt64, kUInt8 };

// Returns the size of one element in bytes.
constexpr std::size_t size_of(DType type) {
  switch (type) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt64:
      return 8;
    case DType::kUInt8:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
  }
  return "unknown";
}

// IEEE binary16 as stored; arithmetic happens in float.
struct Half {
  std::uint16_t bits;
};

// bfloat16 as stored: the upper half of a float.
struct BFloat16 {
  std::uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0) {
    // Subnormal or zero: mantissa * 2^-24, exact in float.
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  }
  const std::uint32_t wide = exponent == 0x1f ? 0xffu : exponent + 112u;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

// Rounds to nearest, ties to even, as the hardware does; T is float, Half or BFloat16.
template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};  // quiet NaN
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};   // NaN
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {
    // Subnormal result: adding 0.5 aligns the value so that the float's own rounding leaves the half's bits.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

// A constant input in the order in which a kernel reads it.
using Packed = std::shared_ptr<const float[]>;

// Runs `task(index)` for every index below `count`, possibly in parallel, and returns when all are done. The caller
// decides whose threads run (ONNX Runtime's pool, a test's own); a kernel never starts threads itself, and splits its
// work by shape alone, so that its results do not depend on the number of threads.
class ParallelFor {
 public:
  using Task = void (*)(void* context, std::size_t index);
  using Run = void (*)(void* pool, std::size_t count, Task task, void* context);

  // One thread: the calling one.
  ParallelFor() = default;
  ParallelFor(Run run, void* pool) : run_(run), pool_(pool) {}

  template <typename F>
  void operator()(std::size_t count, F&& task) const {
    const Task call = [](void* context, std::size_t index) {
      (*static_cast<std::remove_reference_t<F>*>(context))(index);
    };
    if (run_ == nullptr || count <= 1) {
      for (std::size_t index = 0; index < count; ++index) task(index);
      return;
    }
    run_(pool_, count, call, const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  Run run_ = nullptr;
  void* pool_ = nullptr;
};

}  // namespace hsm
