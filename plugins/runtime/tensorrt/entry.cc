// libhsm_backend_tensorrt.so's table of functions: exceptions end here.
#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "runtime/error.h"
#include "runtime/tensorrt/backend.h"
#include "runtime/tensorrt/call.h"
#include "runtime/tensorrt/engine.h"

namespace hsm::runtime::trt {

struct Library {
  Gpu gpu;
  Handle stream;  // of copies of states
};

struct Engine : LoadedEngine {
  using LoadedEngine::LoadedEngine;
};

struct Call : BoundCall {
  using BoundCall::BoundCall;
};

namespace {

template <typename F>
std::int32_t report(Failure* failure, F&& body) noexcept {
  const Status status = guarded_status(body);
  if (!status.ok()) {
    const std::size_t length = std::min(status.message().size(), sizeof failure->message - 1);
    std::memcpy(failure->message, status.message().data(), length);
    failure->message[length] = '\0';
  }
  return static_cast<std::int32_t>(status.code());
}

int attribute(const Gpu& gpu, int which) {
  int value = 0;
  check(gpu.cuda, gpu.cuda.cudaDeviceGetAttribute(&value, which, gpu.device), "cudaDeviceGetAttribute",
        Code::kNoBackend);
  return value;
}

void check_device(const Gpu& gpu) {
  int count = 0;
  const int error = gpu.cuda.cudaGetDeviceCount(&count);
  if (error != kSuccess || count <= 0) {
    const char* text = gpu.cuda.cudaGetErrorString(error);
    fail(Code::kNoBackend,
         std::string("CUDA finds no GPU here: ") + (error == kSuccess || text == nullptr ? "it counts none" : text));
  }
  if (gpu.device < 0 || gpu.device >= count) {
    fail(Code::kNoBackend,
         "there is no GPU " + std::to_string(gpu.device) + "; CUDA counts " + std::to_string(count) + ", from 0");
  }
}

std::int32_t open(const LibrarySettings* settings, Library** library, Machine* machine, Failure* failure) {
  return report(failure, [&] {
    auto opened = std::make_unique<Library>();
    Gpu& gpu = opened->gpu;
    gpu.device = settings->device;
    gpu.sink = {settings->log, settings->user};
    gpu.nvinfer = load_nvinfer({settings->nvinfer, settings->nvinfer_count});
    gpu.cuda = load_cuda({settings->cudart, settings->cudart_count});
    check_device(gpu);
    *machine = {gpu.nvinfer.version, attribute(gpu, kMajor) * 10 + attribute(gpu, kMinor)};
    const DeviceScope device(gpu.cuda, gpu.device);
    opened->stream = make_stream(gpu.cuda);
    *library = opened.release();
  });
}

void close(Library* library) { delete library; }

std::int32_t load(Library* library, const EngineFile* file, Engine** engine, Failure* failure) {
  return report(failure, [&] { *engine = new Engine(library->gpu, *file); });
}

void unload(Engine* engine) { delete engine; }

std::size_t tensor_count(const Engine* engine) { return engine->tensors().size(); }

void tensor(const Engine* engine, std::size_t index, EngineTensor* tensor) {
  const TensorDescription& known = engine->tensors()[index];
  *tensor = {known.name.c_str(), known.is_input ? 1 : 0, known.dtype, known.shape.nbDims, {}};
  std::copy_n(known.shape.d, kMaxRank, tensor->shape);
}

std::int32_t output_shapes(Engine* engine, const hsmrt_tensor* inputs, std::size_t input_count,
                           const char* const* names, std::size_t count, Shape* shapes, Failure* failure) {
  return report(failure, [&] {
    BoundCall call(*engine, {inputs, input_count}, {});
    const std::vector<Dims> known = call.shapes();
    for (std::size_t i = 0; i < count; ++i) {
      const auto& tensors = engine->tensors();
      const auto found =
          std::find_if(tensors.begin(), tensors.end(), [&](const auto& one) { return one.name == names[i]; });
      if (found == tensors.end()) fail(Code::kInternal, std::string("the engine has no output '") + names[i] + "'");
      const Dims& shape = known[static_cast<std::size_t>(found - tensors.begin())];
      shapes[i].rank = shape.nbDims;
      std::copy_n(shape.d, kMaxRank, shapes[i].sizes);
    }
  });
}

std::int32_t bind(Engine* engine, const hsmrt_tensor* inputs, std::size_t input_count, const hsmrt_tensor* outputs,
                  std::size_t output_count, Call** call, Failure* failure) {
  return report(failure,
                [&] { *call = new Call(*engine, std::span(inputs, input_count), std::span(outputs, output_count)); });
}

std::int32_t start(Call* call, void* stream, Failure* failure) {
  return report(failure, [&] { call->start(stream); });
}

std::int32_t is_done(const Call* call) { return call->is_done() ? 1 : 0; }

std::int32_t wait(Call* call, Failure* failure) {
  return report(failure, [&] { call->wait(); });
}

void release(Call* call) { delete call; }

std::int32_t allocate(Library* library, std::size_t bytes, void** memory, Failure* failure) {
  return report(failure, [&] {
    const Cuda& cuda = library->gpu.cuda;
    const DeviceScope device(cuda, library->gpu.device);
    void* made = nullptr;
    check(cuda, cuda.cudaMalloc(&made, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
    Handle owner(made, cuda.cudaFree);
    check(cuda, cuda.cudaMemsetAsync(made, 0, bytes, library->stream.get()), "cudaMemsetAsync");
    check(cuda, cuda.cudaStreamSynchronize(library->stream.get()), "cudaStreamSynchronize");
    *memory = owner.release();
  });
}

// CUDA frees memory of any device, whichever is current.
void free_memory(Library* library, void* memory) { library->gpu.cuda.cudaFree(memory); }

std::int32_t copy(Library* library, void* to, const void* from, std::size_t bytes, Failure* failure) {
  return report(failure, [&] {
    const Cuda& cuda = library->gpu.cuda;
    const DeviceScope device(cuda, library->gpu.device);
    check(cuda, cuda.cudaMemcpyAsync(to, from, bytes, kDefault, library->stream.get()), "cudaMemcpyAsync");
    check(cuda, cuda.cudaStreamSynchronize(library->stream.get()), "cudaStreamSynchronize");
  });
}

std::int32_t clear(Library* library, void* memory, std::size_t bytes, Failure* failure) {
  return report(failure, [&] {
    const Cuda& cuda = library->gpu.cuda;
    const DeviceScope device(cuda, library->gpu.device);
    check(cuda, cuda.cudaMemsetAsync(memory, 0, bytes, library->stream.get()), "cudaMemsetAsync");
    check(cuda, cuda.cudaStreamSynchronize(library->stream.get()), "cudaStreamSynchronize");
  });
}

constexpr Table kTable = {.open = open,
                          .close = close,
                          .load = load,
                          .unload = unload,
                          .tensor_count = tensor_count,
                          .tensor = tensor,
                          .output_shapes = output_shapes,
                          .bind = bind,
                          .start = start,
                          .is_done = is_done,
                          .wait = wait,
                          .release = release,
                          .allocate = allocate,
                          .free = free_memory,
                          .copy = copy,
                          .clear = clear};

}  // namespace
}  // namespace hsm::runtime::trt

extern "C" __attribute__((visibility("default"))) const hsm::runtime::trt::Table* hsmrt_backend_tensorrt_v2() {
  return &hsm::runtime::trt::kTable;
}
