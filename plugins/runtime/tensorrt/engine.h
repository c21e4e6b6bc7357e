// TensorRT on one device, an engine in it, and the lanes on which its calls run.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/tensorrt/backend.h"
#include "runtime/tensorrt/cuda.h"
#include "runtime/tensorrt/nvinfer.h"
#include "runtime/tensorrt/objects.h"

namespace hsm::runtime::trt {

// What is used on every path: CUDA and TensorRT's functions, the device, and where messages go.
struct Gpu {
  Cuda cuda;
  Nvinfer nvinfer;
  int device = 0;
  LogSink sink;
};

struct TensorDescription {
  std::string name;
  bool is_input = false;
  std::int32_t dtype = 0;  // as in hsm_runtime.h
  Dims shape{};            // -1: dynamic
};

// The sizes that one optimisation profile takes, of each tensor that is an input.
struct Profile {
  std::vector<Dims> min, max;
};

// An execution context with what a run on it needs. One run at a time.
struct Lane {
  int profile = 0;
  Handle stream, event;
  std::vector<DeviceBuffer> staging;           // of each tensor that is not in the caller's device memory
  std::uint64_t prepared_for = 0;              // the call whose shapes and addresses the context has
  Owned<nvinfer1::IExecutionContext> context;  // destroyed first: its work uses the buffers
};

class LoadedEngine {
 public:
  // Deserialises an engine. Throws Error. `gpu` outlives it.
  LoadedEngine(const Gpu& gpu, const EngineFile& file);
  ~LoadedEngine();
  LoadedEngine(const LoadedEngine&) = delete;
  LoadedEngine& operator=(const LoadedEngine&) = delete;

  const Gpu& gpu() const { return gpu_; }
  const std::vector<TensorDescription>& tensors() const { return tensors_; }
  const std::vector<Profile>& profiles() const { return profiles_; }

  // A lane with that profile that no other run has; preferably the one that `call` prepared. The device is current.
  std::unique_ptr<Lane> take(int profile, std::uint64_t call);
  // Lanes that failed are destroyed instead.
  void give_back(std::unique_ptr<Lane> lane);

 private:
  std::unique_ptr<Lane> make_lane(int profile);

  const Gpu& gpu_;
  Owned<nvinfer1::IRuntime> runtime_;
  Owned<nvinfer1::ICudaEngine> engine_;
  std::vector<TensorDescription> tensors_;
  std::vector<Profile> profiles_;
  std::mutex mutex_;  // of what follows, and of making contexts
  std::vector<std::unique_ptr<Lane>> free_;
};

}  // namespace hsm::runtime::trt
