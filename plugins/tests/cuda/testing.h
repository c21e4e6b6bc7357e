// Shared by the tests of the CUDA kernels, which are the same sources for the host shim (HSM_SIMT) and for a real GPU:
// device memory, the orders in which threads run, and what was launched.
#pragma once

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#ifdef HSM_SIMT
#include "launch.h"
#else
#include <cuda_runtime_api.h>
#endif

#include "hsm_operators/common/cuda/device.h"
#include "tests/testing.h"

namespace hsm::testing {

#ifdef HSM_SIMT

inline void* allocate_device(std::size_t bytes) {
  void* data = nullptr;
  return posix_memalign(&data, 256, std::max<std::size_t>(bytes, 1)) == 0 ? data : nullptr;
}
inline void free_device(void* data) { std::free(data); }
inline void copy_device(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline int synchronize() { return 0; }
inline std::string error_text(int) { return simt::last_error(); }

// A device of that compute capability; a real GPU is what it is.
inline cuda::Device device(int sm = 86) {
  const std::size_t shared_kilobytes = sm < 80 ? 64 : sm == 80 ? 163 : sm == 90 || sm == 100 ? 227 : 99;
  simt::settings().shared_memory_limit = shared_kilobytes * 1024;
  return {.sm = sm, .multiprocessors = 3, .shared_memory_per_block = shared_kilobytes * 1024};
}

// The kernels launched since the last call, or nothing on a real GPU.
inline std::set<std::string> launched() {
  std::set<std::string> names;
  for (const simt::Launch& launch : simt::launches()) names.insert(launch.kernel);
  simt::clear_launches();
  return names;
}

// Calls body(name) for each order of threads and blocks.
template <typename Body>
void in_every_order(Body body) {
  simt::Settings& settings = simt::settings();
  const simt::Settings before = settings;
  for (const auto& [order, name] :
       {std::pair(simt::Order::kForward, "forward"), std::pair(simt::Order::kReverse, "reverse"),
        std::pair(simt::Order::kShuffled, "shuffled")}) {
    settings.threads = settings.blocks = order;
    ++settings.seed;  // another shuffle each time, the same in each run of the tests
    body(std::string(name));
    if (::testing::Test::HasFatalFailure()) break;
  }
  settings.threads = before.threads;
  settings.blocks = before.blocks;
}

#else

inline void* allocate_device(std::size_t bytes) {
  void* data = nullptr;
  return cudaMalloc(&data, std::max<std::size_t>(bytes, 1)) == cudaSuccess ? data : nullptr;
}
inline void free_device(void* data) { cudaFree(data); }
inline void copy_device(void* to, const void* from, std::size_t bytes) {
  cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}
inline int synchronize() { return cudaDeviceSynchronize(); }
inline std::string error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

inline cuda::Device device(int /*sm*/ = 86) {
  const auto get = [](cudaDeviceAttr attribute) {
    int value = 0;
    cudaDeviceGetAttribute(&value, attribute, 0);
    return value;
  };
  return {.sm = 10 * get(cudaDevAttrComputeCapabilityMajor) + get(cudaDevAttrComputeCapabilityMinor),
          .multiprocessors = get(cudaDevAttrMultiProcessorCount),
          .shared_memory_per_block = static_cast<std::size_t>(get(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
}

inline std::set<std::string> launched() { return {}; }

template <typename Body>
void in_every_order(Body body) {
  body(std::string("hardware"));
}

#endif

// Memory that kernels see, filled with NaN patterns or with a copy of host data. It starts `misalignment` bytes off an
// aligned address and ends exactly where its size says, so that AddressSanitizer sees an access past it.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes, std::size_t misalignment = 0)
      : memory_(allocate_device(bytes + misalignment)), bytes_(bytes), misalignment_(misalignment) {
    const std::vector<unsigned char> poison(bytes, 0xff);
    copy_device(data(), poison.data(), bytes);
  }
  explicit DeviceMemory(const Buffer& buffer, std::size_t misalignment = 0)
      : DeviceMemory(buffer.size() * size_of(buffer.type()), misalignment) {
    copy_device(data(), buffer.data(), bytes_);
  }
  explicit DeviceMemory(const std::vector<std::int64_t>& values) : DeviceMemory(values.size() * sizeof values[0]) {
    copy_device(data(), values.data(), bytes_);
  }

  void* data() { return static_cast<unsigned char*>(memory_.get()) + misalignment_; }
  const void* data() const { return static_cast<const unsigned char*>(memory_.get()) + misalignment_; }
  const std::int64_t* int64s() const { return static_cast<const std::int64_t*>(data()); }
  const float* floats() const { return static_cast<const float*>(data()); }
  float* floats() { return static_cast<float*>(data()); }
  std::size_t bytes() const { return bytes_; }

  // Copies everything to a host buffer of the same size.
  void fetch(Buffer& buffer) const { copy_device(buffer.data(), data(), bytes_); }

 private:
  struct Free {
    void operator()(void* data) const { free_device(data); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t bytes_;
  std::size_t misalignment_;
};

// Expects that a launcher returned 0 and that what it launched runs to its end.
inline void expect_launched(int code, const std::string& what) {
  if (code == 0) code = synchronize();
  ASSERT_EQ(code, 0) << what << ": " << error_text(code);
}

}  // namespace hsm::testing
