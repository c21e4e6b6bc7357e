#include "runtime/tensorrt/cuda.h"

#include <dlfcn.h>

#include <algorithm>

namespace hsm::runtime::trt {
namespace {

template <typename F>
void resolve(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (function == nullptr) fail(Code::kNoBackend, std::string("the library named as CUDA's runtime has no ") + name);
}

void* open_first(std::span<const char* const> names) {
  std::string reasons;
  for (const char* name : names) {
    // It registers functions that run when the process ends, so it is never unloaded.
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return handle;
    const char* reason = dlerror();
    reasons += (reasons.empty() ? "" : "; ") + std::string(reason == nullptr ? name : reason);
  }
  fail(Code::kNoBackend, "CUDA's runtime library cannot be loaded (" + reasons +
                             "); install it, or name it in the option cudart_library");
}

}  // namespace

Cuda load_cuda(std::span<const char* const> names) {
  void* library = open_first(names);
  Cuda cuda;
#define HSM_RESOLVE(name) resolve(library, #name, cuda.name)
  HSM_RESOLVE(cudaGetDeviceCount);
  HSM_RESOLVE(cudaGetDevice);
  HSM_RESOLVE(cudaSetDevice);
  HSM_RESOLVE(cudaDeviceGetAttribute);
  HSM_RESOLVE(cudaMalloc);
  HSM_RESOLVE(cudaFree);
  HSM_RESOLVE(cudaMemcpyAsync);
  HSM_RESOLVE(cudaMemsetAsync);
  HSM_RESOLVE(cudaStreamCreateWithFlags);
  HSM_RESOLVE(cudaStreamSynchronize);
  HSM_RESOLVE(cudaStreamDestroy);
  HSM_RESOLVE(cudaEventCreateWithFlags);
  HSM_RESOLVE(cudaEventRecord);
  HSM_RESOLVE(cudaEventQuery);
  HSM_RESOLVE(cudaEventSynchronize);
  HSM_RESOLVE(cudaEventDestroy);
  HSM_RESOLVE(cudaGetErrorString);
#undef HSM_RESOLVE
  return cuda;
}

void check(const Cuda& cuda, int error, const char* function, Code code) {
  if (error == kSuccess) return;
  const char* text = cuda.cudaGetErrorString(error);
  fail(error == kOutOfMemory ? Code::kOutOfMemory : code, std::string(function) +
                                                              " failed: " + (text == nullptr ? "" : text) +
                                                              " (CUDA error " + std::to_string(error) + ")");
}

DeviceScope::DeviceScope(const Cuda& cuda, int device) : cuda_(cuda), device_(device) {
  check(cuda, cuda.cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ != device) check(cuda, cuda.cudaSetDevice(device), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
  if (previous_ != device_) cuda_.cudaSetDevice(previous_);
}

Handle make_stream(const Cuda& cuda) {
  void* stream = nullptr;
  check(cuda, cuda.cudaStreamCreateWithFlags(&stream, kNonBlocking), "cudaStreamCreateWithFlags");
  return {stream, cuda.cudaStreamDestroy};
}

Handle make_event(const Cuda& cuda) {
  void* event = nullptr;
  check(cuda, cuda.cudaEventCreateWithFlags(&event, kWithoutTiming), "cudaEventCreateWithFlags");
  return {event, cuda.cudaEventDestroy};
}

void* DeviceBuffer::reserve(const Cuda& cuda, std::size_t bytes) {
  if (bytes <= bytes_ && memory_.get() != nullptr) return memory_.get();
  memory_ = Handle();
  bytes_ = 0;
  void* memory = nullptr;
  const std::size_t least = std::max<std::size_t>(bytes, 1);
  check(cuda, cuda.cudaMalloc(&memory, least), "cudaMalloc");
  memory_ = Handle(memory, cuda.cudaFree);
  bytes_ = least;
  return memory;
}

}  // namespace hsm::runtime::trt
