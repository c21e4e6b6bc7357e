// Sessions: one graph of a bundle, loaded into the best back end that this machine has.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stop_token>
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
  kTensorRt = 2,           ///< An engine of the bundle in TensorRT or TensorRT-RTX on an NVIDIA GPU.
  kOnnxRuntimeCuda = 3,    ///< ONNX Runtime's CUDA provider on an NVIDIA GPU.
};

/// The back end's name: "tensorrt", "onnxruntime-cuda", "onnxruntime-fused", "onnxruntime-bodies".
HSM_RUNTIME_API std::string_view name_of(Backend backend);
/// Sets `backend` when the name is one; says whether it is.
HSM_RUNTIME_API bool backend_from_name(std::string_view name, Backend* backend);

/// How much a message matters.
enum class LogLevel : int { kInfo = 0, kWarning = 1, kError = 2 };

/// Called from any thread that uses the session, also at the same time; must not throw.
using LogCallback = std::function<void(LogLevel, std::string_view message)>;

/// How a session is opened.
struct SessionOptions {
  /// Tried in this order; the first that can load the graph is taken.
  std::vector<Backend> backends = {Backend::kTensorRt, Backend::kOnnxRuntimeCuda, Backend::kOnnxRuntimeFused,
                                   Backend::kOnnxRuntimeBodies};
  /// ONNX Runtime's shared library. Empty: the environment variable HSM_ONNXRUNTIME_LIBRARY, else libonnxruntime.so.1
  /// and libonnxruntime.so as the system finds them, else libonnxruntime.so.* beside libhsm_runtime.so, in PyPI's wheel
  /// next to ours, and in the folders of LD_LIBRARY_PATH.
  std::string onnxruntime_library;
  /// The library of fused kernels. Empty: libhsm_onnxruntime.so beside libhsm_runtime.so.
  std::string kernel_library;
  /// The library of CUDA kernels for ONNX Runtime. Empty: libhsm_onnxruntime_cuda.so beside libhsm_runtime.so where it
  /// is there, else the operators' bodies run.
  std::string cuda_kernel_library;
  /// The TensorRT back end. Empty: libhsm_backend_tensorrt.so beside libhsm_runtime.so.
  std::string tensorrt_backend;
  /// TensorRT's shared library. Empty: those that the bundle's engines are for, as the system finds them.
  std::string nvinfer_library;
  /// CUDA's runtime library. Empty: libcudart.so.13, libcudart.so.12 or libcudart.so, as the system finds them.
  std::string cudart_library;
  /// The TensorRT plugins. Empty: libhsm_tensorrt.so beside libhsm_runtime.so.
  std::string plugin_library;
  /// Where the libraries of operators of others are, which the bundle names with their digests: folders separated by
  /// colons, before those of the environment variable HSM_EXPORT_LIBRARIES and that of libhsm_runtime.so.
  std::string operator_libraries;
  /// Load engines that hold their plugins, which is native code: for bundles that you trust as you trust a program.
  bool allow_embedded_plugins = false;
  /// The GPU, as CUDA counts them.
  int device = 0;
  /// Threads of one run; 0 means all cores, 1 means the calling thread alone. Far more than the machine has are
  /// refused.
  int threads = 0;
  /// Let all sessions of the process that say so share one pool of threads, whose size, spinning and affinity are those
  /// of the first. kNoBackend while sessions with pools of their own are open. On the CPU alone.
  bool shared_threads = false;
  /// Let threads that have nothing to do spin for a moment, which answers sooner and takes processor time.
  bool spinning = true;
  /// The processors of each thread of the pool but the calling one, as ONNX Runtime writes them: "2;3,4" are two
  /// threads, the second on processors 3 and 4, counted from 1. Needs as many as `threads` - 1. Empty: anywhere.
  std::string affinity;
  /// Names of tensors inside of the graph, such as hidden states: outputs of the session too, after the graph's own.
  /// The ONNX file is then copied into memory, without weights outside of it. Not for TensorRT. What is an output
  /// cannot be fused away.
  std::vector<std::string> extra_outputs;
  /// Let ONNX Runtime report home and keep a store in the user's folder, as its versions from 1.31 do by default. It is
  /// decided when the process loads ONNX Runtime first, by the variable ORT_DISABLE_TELEMETRY, which is set then.
  bool telemetry = false;
  /// Where messages go; by default nowhere.
  LogCallback log;
};

/// How one run is done.
struct RunOptions {
  /// A cudaStream_t of the session's device: what the run reads must have been written earlier on that stream, and what
  /// it writes may be read later on it. Null: a stream of the session's own, so inputs in GPU memory must be complete.
  /// Only TensorRT takes one.
  void* cuda_stream = nullptr;
  /// Ends the run with kCancelled when its source asks to, from any thread: ONNX Runtime between two nodes, TensorRT
  /// before the run is started. What the run writes is then unspecified.
  std::stop_token stop = {};
};

/// A run that was started. Movable; one thread at a time may use it. Being destroyed waits for the run.
class HSM_RUNTIME_API PendingRun {
 public:
  struct Impl;

  /// Whether the run has ended, so that wait() returns at once.
  bool done() const;
  /// Waits for the run and says how it ended; may be called again.
  Status wait();

  /// Moves it; the other is of no use then.
  PendingRun(PendingRun&&) noexcept;
  /// Moves it; the other is of no use then.
  PendingRun& operator=(PendingRun&&) noexcept;
  ~PendingRun();
  /// For the library itself.
  explicit PendingRun(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

/// A run whose tensors were bound once. It keeps its session alive. Movable; one thread at a time may use it, and any
/// number of them one session at the same time.
class HSM_RUNTIME_API BoundRun {
 public:
  struct Impl;

  /// Runs the graph on the numbers that the inputs' memory holds now, into the outputs' memory, and returns when all is
  /// done. Allocates nothing in this library. After a failure it may be called again.
  Status run();

  /// Moves it; the other is of no use then.
  BoundRun(BoundRun&&) noexcept;
  /// Moves it; the other is of no use then.
  BoundRun& operator=(BoundRun&&) noexcept;
  ~BoundRun();
  /// For the library itself.
  explicit BoundRun(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

/// A loaded graph. All methods may be called from any number of threads at the same time.
class HSM_RUNTIME_API Session {
 public:
  struct Impl;

  /// Loads a part of a bundle, which need not stay open.
  static Result<Session> open(const Bundle& bundle, Part part = Part::kModel, const SessionOptions& options = {});
  /// Opens the bundle too, and verifies it unless told otherwise.
  static Result<Session> open(const std::string& bundle, Part part, const SessionOptions& options = {},
                              const BundleOptions& checks = {});
  /// The same for Part::kModel.
  static Result<Session> open(const std::string& bundle, const SessionOptions& options = {});

  /// The back end that took the graph.
  Backend backend() const;
  /// What the graph reads.
  const std::vector<TensorInfo>& inputs() const;
  /// What it writes.
  const std::vector<TensorInfo>& outputs() const;

  /// Runs the graph from the caller's memory into the caller's memory, and returns when all is done. Nothing is copied
  /// where the memory is the back end's: the CPU's, or that of its GPU. Every input must be given; outputs may be left
  /// out. Shapes are checked before anything runs.
  Status run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
             const RunOptions& options = {}) const;

  /// Runs the graph; every output comes in CPU memory of its own, in the order of outputs().
  Result<std::vector<Tensor>> run(std::span<const NamedTensor> inputs, const RunOptions& options = {}) const;

  /// Starts a run as above and returns. The tensors' memory must stay until the run has ended; names and shapes need
  /// not. TensorRT enqueues it on the stream; elsewhere a thread of the session runs one such run after the other.
  Result<PendingRun> run_async(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                               const RunOptions& options = {}) const;

  /// Binds tensors for many runs in the same memory with the same shapes, so that a run is no more than the back end's
  /// own work. The memory must stay as long as the bound run; names and shapes need not. What run() refuses is refused
  /// here.
  Result<BoundRun> bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                        const RunOptions& options = {}) const;

  /// @{
  /// For the library itself.
  const Impl& impl() const { return *impl_; }
  explicit Session(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  /// @}

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace hsm_runtime
