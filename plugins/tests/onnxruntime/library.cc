#include "tests/onnxruntime/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

namespace hsm::testing {
namespace {

#if defined(__SANITIZE_THREAD__)
// ONNX Runtime's own pool is not instrumented, so ThreadSanitizer cannot see how its threads wait for each other.
constexpr int kPoolThreads = 1;
#else
constexpr int kPoolThreads = 2;
#endif

Ort::Env* the_env = nullptr;

ONNXTensorElementDataType element_type(DType type) {
  switch (type) {
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case DType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::kUInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case DType::kFloat32:
      break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

}  // namespace

Ort::Value tensor(Buffer& buffer, const opset::Shape& shape) {
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  return Ort::Value::CreateTensor(memory, buffer.data(), buffer.size() * size_of(buffer.type()), shape.data(),
                                  shape.size(), element_type(buffer.type()));
}

void Library::SetUpTestSuite() {
  const char* path = std::getenv("HSM_TEST_ONNXRUNTIME");
  if (path == nullptr) return;
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(handle, nullptr) << dlerror();
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  ASSERT_NE(base, nullptr);
  Ort::InitApi(base()->GetApi(ORT_API_VERSION));
  the_env = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "hsm");
}

void Library::TearDownTestSuite() { delete std::exchange(the_env, nullptr); }

Ort::Env* Library::env() { return the_env; }

Ort::SessionOptions Library::with_library(const std::vector<std::pair<std::string, std::string>>& settings) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(kPoolThreads);
  for (const auto& [key, value] : settings) options.AddConfigEntry(key.c_str(), value.c_str());
  options.RegisterCustomOpsLibrary(HSM_TEST_LIBRARY);
  return options;
}

}  // namespace hsm::testing
