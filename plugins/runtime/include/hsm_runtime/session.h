// Sessions: one graph of a bundle, loaded into the best back end that this machine has.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "hsm_runtime/export.h"
#include "hsm_runtime/status.h"
#include "hsm_runtime/tensor.h"

namespace hsm_runtime {

/// What may run a graph.
enum class Backend : int {
  kOnnxRuntimeFused = 0,   ///< ONNX Runtime on the CPU with the fused kernels of libhsm_onnxruntime.so.
  kOnnxRuntimeBodies = 1,  ///< ONNX Runtime on the CPU, which runs the operators' bodies from the file.
};

/// The back end's name: "onnxruntime-fused", "onnxruntime-bodies".
HSM_RUNTIME_API std::string_view name_of(Backend backend);
/// Sets `backend` when the name is one; says whether it is.
HSM_RUNTIME_API bool backend_from_name(std::string_view name, Backend* backend);

enum class LogLevel : int { kInfo = 0, kWarning = 1, kError = 2 };

/// Called from any thread that uses the session, also at the same time; must not throw.
using LogCallback = std::function<void(LogLevel, std::string_view message)>;

struct SessionOptions {
  /// Tried in this order; the first that can load the graph is taken.
  std::vector<Backend> backends = {Backend::kOnnxRuntimeFused, Backend::kOnnxRuntimeBodies};
  /// ONNX Runtime's shared library. Empty: the environment variable HSM_ONNXRUNTIME_LIBRARY, else libonnxruntime.so.1
  /// and libonnxruntime.so as the system finds them.
  std::string onnxruntime_library;
  /// The library of fused kernels. Empty: libhsm_onnxruntime.so beside libhsm_runtime.so.
  std::string kernel_library;
  /// Threads of one run; 0 means all cores, 1 means the calling thread alone.
  int threads = 0;
  /// Where messages go; by default nowhere.
  LogCallback log;
};

/// A loaded graph. All methods may be called from any number of threads at the same time.
class HSM_RUNTIME_API Session {
 public:
  struct Impl;

  static Result<Session> open(const Bundle& bundle, Part part = Part::kModel, const SessionOptions& options = {});
  /// Opens and verifies the bundle too.
  static Result<Session> open(const std::string& bundle, const SessionOptions& options = {});

  Backend backend() const;
  const std::vector<TensorInfo>& inputs() const;
  const std::vector<TensorInfo>& outputs() const;

  /// Runs the graph from the caller's memory into the caller's memory; nothing is copied. Every input must be given;
  /// outputs may be left out. Shapes are checked before anything runs.
  Status run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs) const;

  /// Runs the graph; every output comes in memory of its own, in the order of outputs().
  Result<std::vector<Tensor>> run(std::span<const NamedTensor> inputs) const;

  const Impl& impl() const { return *impl_; }
  explicit Session(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace hsm_runtime
