// The table of functions between libhsm_runtime.so and libhsm_backend_tensorrt.so, in plain C types: the one symbol
// that the back end exports returns it. Whatever changes here makes it another version, with another symbol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hsm_runtime.h"

namespace hsm::runtime::trt {

inline constexpr const char* kEntryPoint = "hsmrt_backend_tensorrt_v2";
inline constexpr std::size_t kMaxRank = 8;  // TensorRT's

struct Failure {
  char message[4096];
};

using LogFunction = void (*)(void* user, std::int32_t level, const char* message);

struct LibrarySettings {
  const char* const* nvinfer;  // libraries of TensorRT to try, in this order
  std::size_t nvinfer_count;
  const char* const* cudart;  // likewise CUDA's runtime
  std::size_t cudart_count;
  std::int32_t device;
  LogFunction log;  // called from any thread, for as long as the library is open
  void* user;
};

// What engines must have been built for.
struct Machine {
  std::int32_t version;  // as getInferLibVersion() says: 101401 is TensorRT 10.14.1, 10701 is TensorRT-RTX 1.7.1
  std::int32_t sm;       // 86 is compute capability 8.6
};

struct EngineFile {
  const char* name;  // for messages
  const void* data;  // need not stay
  std::size_t size;
  const char* const* plugin_libraries;
  std::size_t plugin_library_count;
  std::int32_t allows_native_code;
};

struct EngineTensor {
  const char* name;  // the engine's
  std::int32_t is_input;
  std::int32_t dtype;  // as in hsm_runtime.h; 0: one that the runtime does not know
  std::int32_t rank;
  std::int64_t shape[kMaxRank];  // -1: dynamic
};

struct Shape {
  std::int32_t rank;
  std::int64_t sizes[kMaxRank];
};

struct Library;  // TensorRT on one device
struct Engine;   // may be used by several threads at once
struct Call;     // tensors bound to an engine; one thread at a time

// Functions return a code of hsm_runtime.h and, when it is not HSMRT_OK, put one sentence into `failure`. What they
// make is closed before what it was made from. Tensors are dense and have shapes that the caller has checked.
struct Table {
  std::int32_t (*open)(const LibrarySettings* settings, Library** library, Machine* machine, Failure* failure);
  void (*close)(Library* library);

  std::int32_t (*load)(Library* library, const EngineFile* file, Engine** engine, Failure* failure);
  void (*unload)(Engine* engine);
  std::size_t (*tensor_count)(const Engine* engine);
  void (*tensor)(const Engine* engine, std::size_t index, EngineTensor* tensor);
  // The shapes that the outputs of those names will have.
  std::int32_t (*output_shapes)(Engine* engine, const hsmrt_tensor* inputs, std::size_t input_count,
                                const char* const* names, std::size_t count, Shape* shapes, Failure* failure);

  // Keeps the tensors' addresses and nothing else of them.
  std::int32_t (*bind)(Engine* engine, const hsmrt_tensor* inputs, std::size_t input_count, const hsmrt_tensor* outputs,
                       std::size_t output_count, Call** call, Failure* failure);
  // Enqueues a run on `stream`, a cudaStream_t, or on one of the engine's own when it is null.
  std::int32_t (*start)(Call* call, void* stream, Failure* failure);
  std::int32_t (*is_done)(const Call* call);
  std::int32_t (*wait)(Call* call, Failure* failure);
  void (*release)(Call* call);  // waits for a run in flight

  // Memory of the device, zeros at first. `copy` takes addresses of CPU and device; both return when all is done.
  std::int32_t (*allocate)(Library* library, std::size_t bytes, void** memory, Failure* failure);
  void (*free)(Library* library, void* memory);
  std::int32_t (*copy)(Library* library, void* to, const void* from, std::size_t bytes, Failure* failure);
  std::int32_t (*clear)(Library* library, void* memory, std::size_t bytes, Failure* failure);
};

using EntryPoint = const Table* (*)();

}  // namespace hsm::runtime::trt
