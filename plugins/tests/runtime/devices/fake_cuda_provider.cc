// The real ONNX Runtime, which takes the CUDA provider and its tensors for the CPU's. What it was told is in the
// environment variable HSM_TEST_CUDA_TENSORS. An input that is bound reads zeros ever after: the real provider copies
// the CPU's memory to the GPU when it is bound, and never again.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>

namespace {

const OrtApi* real = nullptr;

void note(const std::string& text) {
  const char* before = std::getenv("HSM_TEST_CUDA_TENSORS");
  setenv("HSM_TEST_CUDA_TENSORS", ((before == nullptr ? "" : std::string(before) + " ") + text).c_str(), 1);
}

OrtStatus* ORT_API_CALL create(OrtCUDAProviderOptionsV2** options) noexcept {
  *options = reinterpret_cast<OrtCUDAProviderOptionsV2*>(&real);
  return nullptr;
}
void ORT_API_CALL release(OrtCUDAProviderOptionsV2*) noexcept {}
OrtStatus* ORT_API_CALL update(OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values,
                               size_t count) noexcept {
  for (size_t i = 0; i < count; ++i) note(std::string(keys[i]) + "=" + values[i]);
  return nullptr;
}
OrtStatus* ORT_API_CALL append(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*) noexcept { return nullptr; }
OrtStatus* ORT_API_CALL create_memory(const char* name, OrtAllocatorType type, int id, OrtMemType memory,
                                      OrtMemoryInfo** info) noexcept {
  if (std::strcmp(name, "Cuda") != 0) return real->CreateMemoryInfo(name, type, id, memory, info);
  note("Cuda:" + std::to_string(id));
  return real->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, info);
}

OrtStatus* ORT_API_CALL bind_input(OrtIoBinding* binding, const char* name, const OrtValue* value) noexcept {
  OrtTensorTypeAndShapeInfo* type = nullptr;
  if (OrtStatus* status = real->GetTensorTypeAndShape(value, &type)) return status;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::array<int64_t, 8> shape = {};
  size_t rank = 0;
  std::ignore = real->GetTensorElementType(type, &element);
  std::ignore = real->GetDimensionsCount(type, &rank);
  std::ignore = real->GetDimensions(type, shape.data(), rank);
  real->ReleaseTensorTypeAndShapeInfo(type);
  OrtAllocator* allocator = nullptr;
  OrtValue* zeros = nullptr;
  if (OrtStatus* status = real->GetAllocatorWithDefaultOptions(&allocator)) return status;
  if (OrtStatus* status = real->CreateTensorAsOrtValue(allocator, shape.data(), rank, element, &zeros)) return status;
  OrtStatus* status = real->BindInput(binding, name, zeros);
  real->ReleaseValue(zeros);
  return status;
}

const OrtApi* ORT_API_CALL api(uint32_t version) noexcept {
  static OrtApi played = [&] {
    OrtApi copy = *real;
    copy.CreateCUDAProviderOptions = create;
    copy.ReleaseCUDAProviderOptions = release;
    copy.UpdateCUDAProviderOptions = update;
    copy.SessionOptionsAppendExecutionProvider_CUDA_V2 = append;
    copy.CreateMemoryInfo = create_memory;
    copy.BindInput = bind_input;
    return copy;
  }();
  return version == ORT_API_VERSION ? &played : nullptr;
}

const char* ORT_API_CALL version() noexcept { return "played"; }

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base = {api, version};
  void* library = dlopen(std::getenv("HSM_TEST_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  real = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"))()->GetApi(ORT_API_VERSION);
  return &base;
}
