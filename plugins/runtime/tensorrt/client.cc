#include "runtime/tensorrt/client.h"

#include <dlfcn.h>

#include <utility>

#include "runtime/error.h"

namespace hsm::runtime::trt {
namespace {

std::vector<const char*> pointers(const std::vector<std::string>& texts) {
  std::vector<const char*> all;
  for (const std::string& text : texts) all.push_back(text.c_str());
  return all;
}

void forward(void* callback, std::int32_t level, const char* message) {
  const auto& log = *static_cast<const hsm_runtime::LogCallback*>(callback);
  if (log) log(static_cast<hsm_runtime::LogLevel>(level), std::string("TensorRT: ") + message);
}

}  // namespace

const Table& load_backend(const std::string& path) {
  // Never unloaded: TensorRT keeps a pointer to the logger in there.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    const char* reason = dlerror();
    fail(Code::kNoBackend, "the TensorRT back end cannot be loaded: " + (reason == nullptr ? path : reason));
  }
  const auto entry = reinterpret_cast<EntryPoint>(dlsym(library, kEntryPoint));
  if (entry == nullptr) {
    fail(Code::kNoBackend, path + " is no TensorRT back end of this version: it has no " + kEntryPoint);
  }
  return *entry();
}

void require(std::int32_t code, const Failure& failure) {
  if (code != HSMRT_OK) fail(static_cast<Code>(code), failure.message);
}

Client::Client(const Table& table, const std::vector<std::string>& nvinfer, const std::vector<std::string>& cudart,
               int device, hsm_runtime::LogCallback log)
    : table_(table), log_(std::move(log)) {
  const std::vector<const char*> nvinfer_names = pointers(nvinfer), cudart_names = pointers(cudart);
  LibrarySettings settings{
      nvinfer_names.data(), nvinfer_names.size(), cudart_names.data(), cudart_names.size(), device, nullptr, nullptr};
  if (log_) {
    settings.log = forward;
    settings.user = const_cast<hsm_runtime::LogCallback*>(&log_);
  }
  Failure failure;
  require(table.open(&settings, &library_, &machine_, &failure), failure);
}

Client::~Client() { table_.close(library_); }

std::shared_ptr<std::byte> DeviceMemory::allocate(std::size_t bytes) const {
  Failure failure;
  void* memory = nullptr;
  require(client_->table().allocate(client_->library(), bytes, &memory, &failure), failure);
  const auto free = [client = client_](std::byte* made) { client->table().free(client->library(), made); };
  return {static_cast<std::byte*>(memory), free};
}

void DeviceMemory::copy(std::byte* to, const std::byte* from, std::size_t bytes) const {
  Failure failure;
  require(client_->table().copy(client_->library(), to, from, bytes, &failure), failure);
}

void DeviceMemory::clear(std::byte* memory, std::size_t bytes) const {
  Failure failure;
  require(client_->table().clear(client_->library(), memory, bytes, &failure), failure);
}

CallTensors::CallTensors(std::span<const NamedTensor> tensors) {
  names_.reserve(tensors.size());  // so that the pointers to short texts stay
  for (const NamedTensor& named : tensors) {
    const TensorView& view = named.tensor;
    tensors_.push_back({names_.emplace_back(named.name).c_str(), view.data, static_cast<std::int32_t>(view.dtype),
                        view.device.kind == Device::Kind::kCuda ? HSMRT_CUDA : HSMRT_CPU, view.device.index,
                        static_cast<std::int32_t>(view.shape.size()), view.shape.data(), nullptr});
  }
}

}  // namespace hsm::runtime::trt
