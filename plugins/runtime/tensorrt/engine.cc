#include "runtime/tensorrt/engine.h"

#include <algorithm>
#include <utility>

namespace hsm::runtime::trt {
namespace {

// 0 where the runtime has no such type.
std::int32_t dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return HSMRT_FLOAT32;
    case nvinfer1::DataType::kHALF:
      return HSMRT_FLOAT16;
    case nvinfer1::DataType::kBF16:
      return HSMRT_BFLOAT16;
    case nvinfer1::DataType::kINT8:
      return HSMRT_INT8;
    case nvinfer1::DataType::kUINT8:
      return HSMRT_UINT8;
    case nvinfer1::DataType::kINT32:
      return HSMRT_INT32;
    case nvinfer1::DataType::kINT64:
      return HSMRT_INT64;
    case nvinfer1::DataType::kBOOL:
      return HSMRT_BOOL;
    default:  // smaller floats, and types of versions to come
      return 0;
  }
}

Owned<nvinfer1::IRuntime> make_runtime(const Nvinfer& nvinfer, const EngineFile& file, const LogScope& log) {
  auto runtime = own(static_cast<nvinfer1::IRuntime*>(nvinfer.create_runtime(nvinfer.logger, nvinfer.version)));
  if (!runtime) log.fail(Code::kNoBackend, "TensorRT makes no runtime here");
  for (std::size_t i = 0; i < file.plugin_library_count; ++i) {
    const char* const library = file.plugin_libraries[i];
    if (load_plugins(nvinfer.layout, *runtime, library) == nullptr) {
      log.fail(Code::kNoBackend, std::string("TensorRT cannot load the plugins of ") + library);
    }
  }
  if (file.allows_native_code != 0) call(nvinfer.layout, *runtime, &VRuntime::setEngineHostCodeAllowed, true);
  return runtime;
}

std::vector<TensorDescription> tensors_of(nvinfer1::ICudaEngine& engine, Layout layout, const std::string& file) {
  std::vector<TensorDescription> tensors;
  const std::int32_t count = call(layout, engine, &VCudaEngine::getNbIOTensors);
  for (std::int32_t i = 0; i < count; ++i) {
    const char* name = call(layout, engine, &VCudaEngine::getIOTensorName, i);
    if (name == nullptr) fail(Code::kNoBackend, file + " has a tensor without a name");
    TensorDescription& tensor = tensors.emplace_back();
    tensor.name = name;
    tensor.is_input = call(layout, engine, &VCudaEngine::getTensorIOMode, name) == nvinfer1::TensorIOMode::kINPUT;
    tensor.dtype = dtype_of(call(layout, engine, &VCudaEngine::getTensorDataType, name));
    tensor.shape = call(layout, engine, &VCudaEngine::getTensorShape, name);
    if (call(layout, engine, &VCudaEngine::isShapeInferenceIO, name)) {
      fail(Code::kNoBackend,
           file + " computes shapes from the numbers in '" + tensor.name + "', which is not supported");
    }
    if (tensor.shape.nbDims < 0 || tensor.shape.nbDims > static_cast<std::int32_t>(kMaxRank)) {
      fail(Code::kNoBackend, file + " does not say which shape '" + tensor.name + "' has");
    }
  }
  return tensors;
}

std::vector<Profile> profiles_of(nvinfer1::ICudaEngine& engine, Layout layout,
                                 const std::vector<TensorDescription>& tensors) {
  const std::int32_t count = call(layout, engine, &VCudaEngine::getNbOptimizationProfiles);
  std::vector<Profile> profiles(static_cast<std::size_t>(std::max(count, 1)));
  for (std::size_t i = 0; i < profiles.size(); ++i) {
    for (const TensorDescription& tensor : tensors) {
      const auto of = [&](nvinfer1::OptProfileSelector which) {
        if (!tensor.is_input) return Dims{};
        const Dims found = call(layout, engine, &VCudaEngine::getProfileShape, tensor.name.c_str(),
                                static_cast<std::int32_t>(i), which);
        return found.nbDims == tensor.shape.nbDims ? found : tensor.shape;  // an input of one shape only
      };
      profiles[i].min.push_back(of(nvinfer1::OptProfileSelector::kMIN));
      profiles[i].max.push_back(of(nvinfer1::OptProfileSelector::kMAX));
    }
  }
  return profiles;
}

}  // namespace

LoadedEngine::LoadedEngine(const Gpu& gpu, const EngineFile& file) : gpu_(gpu) {
  const DeviceScope device(gpu.cuda, gpu.device);
  const LogScope log(gpu.sink);
  runtime_ = make_runtime(gpu.nvinfer, file, log);
  engine_ = own(call(gpu.nvinfer.layout, *runtime_, kDeserialize, file.data, file.size));
  if (!engine_) log.fail(Code::kNoBackend, std::string("TensorRT cannot read ") + file.name);
  tensors_ = tensors_of(*engine_, gpu.nvinfer.layout, file.name);
  profiles_ = profiles_of(*engine_, gpu.nvinfer.layout, tensors_);
  free_.push_back(make_lane(0));  // what cannot run here shall not load
}

LoadedEngine::~LoadedEngine() {
  const LogScope log(gpu_.sink);
  const auto clear = [&] {
    free_.clear();
    engine_.reset();
    runtime_.reset();
  };
  try {
    const DeviceScope device(gpu_.cuda, gpu_.device);
    clear();
  } catch (const Error&) {  // the device is lost, and what was on it with it
    clear();
  }
}

std::unique_ptr<Lane> LoadedEngine::make_lane(int profile) {
  const LogScope log(gpu_.sink);
  const Layout layout = gpu_.nvinfer.layout;
  auto lane = std::make_unique<Lane>();
  lane->profile = profile;
  lane->stream = make_stream(gpu_.cuda);
  lane->event = make_event(gpu_.cuda);
  lane->staging.resize(tensors_.size());
  lane->context = own(call(layout, *engine_, &VCudaEngine::createExecutionContext,
                           nvinfer1::ExecutionContextAllocationStrategy::kSTATIC));
  if (!lane->context) log.fail(Code::kOutOfMemory, "TensorRT makes no execution context; is the GPU's memory full?");
  void* stream = lane->stream.get();
  if (!call(layout, *lane->context, &VExecutionContext::setOptimizationProfileAsync, profile,
            static_cast<cudaStream_t>(stream))) {
    log.fail(Code::kRunFailed, "TensorRT cannot use the optimisation profile " + std::to_string(profile));
  }
  check(gpu_.cuda, gpu_.cuda.cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return lane;
}

std::unique_ptr<Lane> LoadedEngine::take(int profile, std::uint64_t call) {
  const std::lock_guard lock(mutex_);
  auto found = free_.end();
  for (auto lane = free_.begin(); lane != free_.end(); ++lane) {
    if ((*lane)->profile != profile) continue;
    found = lane;
    if ((*lane)->prepared_for == call) break;
  }
  if (found == free_.end()) return make_lane(profile);
  std::unique_ptr<Lane> lane = std::move(*found);
  free_.erase(found);
  return lane;
}

void LoadedEngine::give_back(std::unique_ptr<Lane> lane) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(lane));
}

}  // namespace hsm::runtime::trt
