#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/runtime/devices/fake_gpu.h"

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

namespace hsm::testing {
namespace {

constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNoDevice = 100, kUnknown = 999, kNotReady = 600;

FakeGpu& gpu() {
  static auto* const state = new FakeGpu;
  return *state;
}

using Stream = FakeStream;

struct Event {
  Stream* stream = nullptr;
  std::uint64_t position = 0;
};

thread_local int current_device = 0;

std::string hex(const void* address) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

const char* name_of(int kind) { return kind == 1 ? "to device" : kind == 2 ? "to host" : kind == 4 ? "any way" : "?"; }

}  // namespace

}  // namespace hsm::testing

using namespace hsm::testing;  // NOLINT: the functions below have C's names

FAKE_EXPORT FakeGpu* hsm_fake_gpu() { return &gpu(); }

FAKE_EXPORT const char* cudaGetErrorString(int error) {
  return error == kOutOfMemory ? "out of memory"
         : error == kNoDevice  ? "no CUDA-capable device is detected"
                               : "unknown error";
}

FAKE_EXPORT int cudaGetDeviceCount(int* count) {
  *count = gpu().devices;
  if (gpu().fails("cudaGetDeviceCount")) return kUnknown;
  return gpu().devices > 0 ? kSuccess : kNoDevice;
}

FAKE_EXPORT int cudaGetDevice(int* device) {
  if (gpu().fails("cudaGetDevice")) return kUnknown;
  *device = current_device;
  return kSuccess;
}

FAKE_EXPORT int cudaSetDevice(int device) {
  if (gpu().fails("cudaSetDevice", std::to_string(device))) return kUnknown;
  if (device < 0 || device >= gpu().devices) return kInvalidValue;
  current_device = device;
  return kSuccess;
}

FAKE_EXPORT int cudaDeviceGetAttribute(int* value, int attribute, int) {
  if (gpu().fails("cudaDeviceGetAttribute", std::to_string(attribute))) return kUnknown;
  *value = attribute == 75 ? gpu().sm / 10 : gpu().sm % 10;
  return kSuccess;
}

FAKE_EXPORT int cudaMalloc(void** memory, std::size_t bytes) {
  if (gpu().fails("cudaMalloc", std::to_string(bytes))) return kOutOfMemory;
  const std::lock_guard lock(gpu().mutex);
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*memory, 0xa5, bytes);
  gpu().memory[*memory] = bytes;
  ++gpu().live["memory"];
  return kSuccess;
}

FAKE_EXPORT int cudaFree(void* memory) {
  const std::lock_guard lock(gpu().mutex);
  gpu().fails("cudaFree");
  if (gpu().memory.erase(memory) == 0) gpu().violations.push_back("cudaFree of " + hex(memory));
  --gpu().live["memory"];
  std::free(memory);
  return kSuccess;
}

FAKE_EXPORT int cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, int kind, void* stream) {
  if (gpu().fails("cudaMemcpyAsync", std::string(name_of(kind)) + " " + std::to_string(bytes))) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  const bool to_device = gpu().is_device_memory(to, bytes), from_device = gpu().is_device_memory(from, bytes);
  if ((kind == 1 && !(to_device && !from_device)) || (kind == 2 && !(from_device && !to_device))) {
    gpu().violations.push_back(std::string("a copy ") + name_of(kind) + " of other memory");
  }
  gpu().enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return kSuccess;
}

FAKE_EXPORT int cudaMemsetAsync(void* memory, int value, std::size_t bytes, void* stream) {
  if (gpu().fails("cudaMemsetAsync", std::to_string(bytes))) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  if (!gpu().is_device_memory(memory, bytes)) gpu().violations.push_back("cudaMemsetAsync of other memory");
  gpu().enqueue(stream, [=] { std::memset(memory, value, bytes); });
  return kSuccess;
}

FAKE_EXPORT int cudaStreamCreateWithFlags(void** stream, unsigned) {
  if (gpu().fails("cudaStreamCreateWithFlags")) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  *stream = new Stream;
  ++gpu().live["stream"];
  return kSuccess;
}

FAKE_EXPORT int cudaStreamSynchronize(void* stream) {
  const bool fails = gpu().fails("cudaStreamSynchronize");
  const std::lock_guard lock(gpu().mutex);
  static_cast<Stream*>(stream)->run_until(static_cast<Stream*>(stream)->issued);
  return fails ? kUnknown : kSuccess;
}

FAKE_EXPORT int cudaStreamDestroy(void* stream) {
  const std::lock_guard lock(gpu().mutex);
  gpu().fails("cudaStreamDestroy");
  if (!static_cast<Stream*>(stream)->work.empty()) gpu().violations.push_back("a stream destroyed with work on it");
  delete static_cast<Stream*>(stream);
  --gpu().live["stream"];
  return kSuccess;
}

FAKE_EXPORT int cudaEventCreateWithFlags(void** event, unsigned) {
  if (gpu().fails("cudaEventCreateWithFlags")) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  *event = new Event;
  ++gpu().live["event"];
  return kSuccess;
}

FAKE_EXPORT int cudaEventRecord(void* event, void* stream) {
  if (gpu().fails("cudaEventRecord")) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  *static_cast<Event*>(event) = {static_cast<Stream*>(stream), static_cast<Stream*>(stream)->issued};
  return kSuccess;
}

// Each question does one piece of work.
FAKE_EXPORT int cudaEventQuery(void* event) {
  if (gpu().fails("cudaEventQuery")) return kUnknown;
  const std::lock_guard lock(gpu().mutex);
  Event& asked = *static_cast<Event*>(event);
  if (asked.stream == nullptr || asked.stream->done >= asked.position) return kSuccess;
  asked.stream->run_until(asked.stream->done + 1);
  return kNotReady;
}

FAKE_EXPORT int cudaEventSynchronize(void* event) {
  const bool fails = gpu().fails("cudaEventSynchronize");
  const std::lock_guard lock(gpu().mutex);
  Event& asked = *static_cast<Event*>(event);
  if (asked.stream != nullptr) asked.stream->run_until(std::max(asked.stream->done, asked.position));
  return fails ? kUnknown : kSuccess;
}

FAKE_EXPORT int cudaEventDestroy(void* event) {
  const std::lock_guard lock(gpu().mutex);
  gpu().fails("cudaEventDestroy");
  delete static_cast<Event*>(event);
  --gpu().live["event"];
  return kSuccess;
}
