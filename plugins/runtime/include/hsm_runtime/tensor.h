// Tensors: views of the caller's memory, and results that own theirs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hsm_runtime/export.h"

namespace hsm_runtime {

/// Element types, with ONNX's numbers.
enum class DType : int {
  kFloat32 = 1,
  kUInt8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kFloat64 = 11,
  kBFloat16 = 16,
};

/// Bytes of one element.
HSM_RUNTIME_API std::size_t size_of(DType dtype);
/// The type's name as in NumPy: "float32".
HSM_RUNTIME_API std::string_view name_of(DType dtype);

/// Where memory is.
struct Device {
  /// The kinds that there are.
  enum class Kind : int {
    kCpu = 0,   ///< The host's memory.
    kCuda = 1,  ///< That of an NVIDIA GPU.
  };
  Kind kind = Kind::kCpu;  ///< Whose memory it is.
  int index = 0;           ///< The GPU's, as CUDA counts them.
};

/// Memory of the caller's, who keeps it alive during the call. Inputs are only read. Memory of a GPU starts at a
/// multiple of 256 bytes, as cudaMalloc's does.
struct TensorView {
  void* data = nullptr;                 ///< The first element; null when there is none.
  DType dtype = DType::kFloat32;        ///< The type of the elements.
  std::span<const std::int64_t> shape;  ///< Sizes.
  /// In elements. Empty means dense, last dimension fastest; back ends take no other layout today and say so.
  std::span<const std::int64_t> strides = {};
  Device device = {};  ///< Where `data` is.
};

/// A tensor and the name of the model's input or output that it is for.
struct NamedTensor {
  std::string_view name;  ///< As the model calls it.
  TensorView tensor;      ///< Its memory.
};

/// A result in memory that the back end allocated. Copies share it.
class HSM_RUNTIME_API Tensor {
 public:
  /// For back ends: `data` keeps the memory alive.
  Tensor(std::string name, DType dtype, std::vector<std::int64_t> shape, std::shared_ptr<void> data)
      : name_(std::move(name)), dtype_(dtype), shape_(std::move(shape)), data_(std::move(data)) {}

  /// As the model calls the output.
  const std::string& name() const { return name_; }
  /// The type of the elements.
  DType dtype() const { return dtype_; }
  /// Sizes.
  std::span<const std::int64_t> shape() const { return shape_; }
  /// Number of elements.
  std::size_t size() const;
  /// The elements, dense, last dimension fastest.
  const void* data() const { return data_.get(); }
  /// The elements; T must be the type that dtype() names.
  template <typename T>
  std::span<const T> values() const {
    return {static_cast<const T*>(data_.get()), size()};
  }

 private:
  std::string name_;
  DType dtype_;
  std::vector<std::int64_t> shape_;
  std::shared_ptr<void> data_;
};

/// One dimension: a size, or the name of a dimension that the caller chooses ("batch").
using Dimension = std::variant<std::int64_t, std::string>;

/// What a model says of an input or output.
struct TensorInfo {
  std::string name;               ///< As run() wants it.
  DType dtype = DType::kFloat32;  ///< The type of the elements.
  std::vector<Dimension> shape;   ///< Sizes, and names of those that the caller chooses.
};

}  // namespace hsm_runtime
