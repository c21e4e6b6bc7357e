#include "runtime/tensorrt/engine.h"

#include <algorithm>
#include <array>
#include <utility>

namespace hsm::runtime::trt {
namespace {

// ONNX's number of each of TensorRT's DataType; 0 where the runtime has no such type.
constexpr std::array<std::int32_t, 9> kTypes = {HSMRT_FLOAT32, HSMRT_FLOAT16,  HSMRT_INT8,     HSMRT_INT32, HSMRT_BOOL,
                                                HSMRT_UINT8,   0 /* float8 */, HSMRT_BFLOAT16, HSMRT_INT64};

std::int32_t dtype_of(std::int32_t type) {
  return type >= 0 && type < static_cast<std::int32_t>(kTypes.size()) ? kTypes[static_cast<std::size_t>(type)] : 0;
}

OwnedInterface make_runtime(const Nvinfer& nvinfer, const EngineFile& file, const LogScope& log) {
  OwnedInterface runtime = own(nvinfer.create_runtime(nvinfer.logger, nvinfer.version));
  if (!runtime) log.fail(Code::kNoBackend, "TensorRT makes no runtime here");
  for (std::size_t i = 0; i < file.plugin_library_count; ++i) {
    const char* const library = file.plugin_libraries[i];
    void* registry = call<void*>(runtime.get(), nvinfer.slots->plugin_registry);
    if (call_virtual<void*>(registry, nvinfer.slots->load_library, library) == nullptr) {
      log.fail(Code::kNoBackend, std::string("TensorRT cannot load the plugins of ") + library);
    }
  }
  if (file.allows_native_code != 0) call<void>(runtime.get(), nvinfer.slots->allow_native_code, true);
  return runtime;
}

std::vector<TensorDescription> tensors_of(Interface* engine, const Slots& slots, const std::string& file) {
  std::vector<TensorDescription> tensors;
  const auto count = call<std::int32_t>(engine, slots.tensor_count);
  for (std::int32_t i = 0; i < count; ++i) {
    const char* name = call<const char*>(engine, slots.tensor_name, i);
    if (name == nullptr) fail(Code::kNoBackend, file + " has a tensor without a name");
    TensorDescription& tensor = tensors.emplace_back();
    tensor.name = name;
    tensor.is_input = call<std::int32_t>(engine, slots.tensor_mode, name) == kInput;
    tensor.dtype = dtype_of(call<std::int32_t>(engine, slots.tensor_type, name));
    tensor.shape = call<Dims>(engine, slots.tensor_shape, name);
    if (call<bool>(engine, slots.is_shape_tensor, name)) {
      fail(Code::kNoBackend,
           file + " computes shapes from the numbers in '" + tensor.name + "', which is not supported");
    }
    if (tensor.shape.count < 0 || tensor.shape.count > static_cast<std::int32_t>(kMaxRank)) {
      fail(Code::kNoBackend, file + " does not say which shape '" + tensor.name + "' has");
    }
  }
  return tensors;
}

std::vector<Profile> profiles_of(Interface* engine, const Slots& slots, const std::vector<TensorDescription>& tensors) {
  std::vector<Profile> profiles(static_cast<std::size_t>(std::max(call<std::int32_t>(engine, slots.profile_count), 1)));
  for (std::size_t i = 0; i < profiles.size(); ++i) {
    for (const TensorDescription& tensor : tensors) {
      const auto of = [&](std::int32_t which) {
        if (!tensor.is_input) return Dims{};
        const auto found =
            call<Dims>(engine, slots.profile_shape, tensor.name.c_str(), static_cast<std::int32_t>(i), which);
        return found.count == tensor.shape.count ? found : tensor.shape;  // an input of one shape only
      };
      profiles[i].min.push_back(of(kMin));
      profiles[i].max.push_back(of(kMax));
    }
  }
  return profiles;
}

}  // namespace

LoadedEngine::LoadedEngine(const Gpu& gpu, const EngineFile& file) : gpu_(gpu) {
  const DeviceScope device(gpu.cuda, gpu.device);
  const LogScope log(gpu.sink);
  runtime_ = make_runtime(gpu.nvinfer, file, log);
  engine_ = own(call<void*>(runtime_.get(), gpu.nvinfer.slots->deserialize, file.data, file.size));
  if (!engine_) log.fail(Code::kNoBackend, std::string("TensorRT cannot read ") + file.name);
  tensors_ = tensors_of(engine_.get(), *gpu.nvinfer.slots, file.name);
  profiles_ = profiles_of(engine_.get(), *gpu.nvinfer.slots, tensors_);
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
  const Slots& slots = *gpu_.nvinfer.slots;
  auto lane = std::make_unique<Lane>();
  lane->profile = profile;
  lane->stream = make_stream(gpu_.cuda);
  lane->event = make_event(gpu_.cuda);
  lane->staging.resize(tensors_.size());
  lane->context = own(call<void*>(engine_.get(), slots.create_context, kStaticAllocation));
  if (!lane->context) log.fail(Code::kOutOfMemory, "TensorRT makes no execution context; is the GPU's memory full?");
  void* stream = lane->stream.get();
  if (!call<bool>(lane->context.get(), slots.set_profile, static_cast<std::int32_t>(profile), stream)) {
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
