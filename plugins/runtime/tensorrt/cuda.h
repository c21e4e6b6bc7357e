// CUDA's runtime library as the machine has it, and owners of what it makes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "runtime/error.h"

namespace hsm::runtime::trt {

// The functions of libcudart.so that are used; the names and numbers are CUDA's since version 4.
struct Cuda {
  int (*cudaGetDeviceCount)(int* count);
  int (*cudaGetDevice)(int* device);
  int (*cudaSetDevice)(int device);
  int (*cudaDeviceGetAttribute)(int* value, int attribute, int device);
  int (*cudaMalloc)(void** memory, std::size_t bytes);
  int (*cudaFree)(void* memory);
  int (*cudaMemcpyAsync)(void* to, const void* from, std::size_t bytes, int kind, void* stream);
  int (*cudaMemsetAsync)(void* memory, int value, std::size_t bytes, void* stream);
  int (*cudaStreamCreateWithFlags)(void** stream, unsigned flags);
  int (*cudaStreamSynchronize)(void* stream);
  int (*cudaStreamDestroy)(void* stream);
  int (*cudaEventCreateWithFlags)(void** event, unsigned flags);
  int (*cudaEventRecord)(void* event, void* stream);
  int (*cudaEventQuery)(void* event);
  int (*cudaEventSynchronize)(void* event);
  int (*cudaEventDestroy)(void* event);
  const char* (*cudaGetErrorString)(int error);
};

inline constexpr int kSuccess = 0, kOutOfMemory = 2, kNotReady = 600;     // cudaError_t
inline constexpr int kMajor = 75, kMinor = 76;                            // cudaDeviceAttr
inline constexpr int kHostToDevice = 1, kDeviceToHost = 2, kDefault = 4;  // cudaMemcpyKind
inline constexpr unsigned kNonBlocking = 1;                               // streams that do not wait for stream 0
inline constexpr unsigned kWithoutTiming = 2;                             // events

// Loads the first library that is there; it stays loaded. Throws Error(kNoBackend).
Cuda load_cuda(std::span<const char* const> names);

// Throws Error(code), or Error(kOutOfMemory) where that is what `error` says.
void check(const Cuda& cuda, int error, const char* function, Code code = Code::kRunFailed);

// Makes a device current in this thread, and afterwards the one that was so before.
class DeviceScope {
 public:
  DeviceScope(const Cuda& cuda, int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  const Cuda& cuda_;
  int device_;
  int previous_ = -1;
};

// One CUDA object; the device of the thread that destroys it must be that of the thread that made it.
class Handle {
 public:
  using Close = int (*)(void*);
  Handle() = default;
  Handle(void* object, Close close) : object_(object), close_(close) {}
  Handle(Handle&& other) noexcept : object_(std::exchange(other.object_, nullptr)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(object_, other.object_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (object_ != nullptr) close_(object_);
  }
  void* get() const { return object_; }
  void* release() { return std::exchange(object_, nullptr); }

 private:
  void* object_ = nullptr;
  Close close_ = nullptr;
};

Handle make_stream(const Cuda& cuda);
Handle make_event(const Cuda& cuda);

// Memory of the current device that grows when more is asked for.
class DeviceBuffer {
 public:
  // Throws Error. What was in it is lost when it grows.
  void* reserve(const Cuda& cuda, std::size_t bytes);

 private:
  Handle memory_;
  std::size_t bytes_ = 0;
};

}  // namespace hsm::runtime::trt
