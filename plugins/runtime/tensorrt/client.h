// The back end's library seen from libhsm_runtime.so: owners of what its table makes, and errors instead of codes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/program.h"
#include "runtime/tensorrt/backend.h"

namespace hsm::runtime::trt {

// The table of the back end at `path`, which stays loaded. Throws Error(kNoBackend).
const Table& load_backend(const std::string& path);

// Throws what the back end reports.
void require(std::int32_t code, const Failure& failure);

// TensorRT on one device. Made once for each session, and kept alive by all that came from it.
class Client {
 public:
  // Throws Error(kNoBackend).
  Client(const Table& table, const std::vector<std::string>& nvinfer, const std::vector<std::string>& cudart,
         int device, hsm_runtime::LogCallback log);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const Table& table() const { return table_; }
  trt::Library* library() const { return library_; }
  const Machine& machine() const { return machine_; }

 private:
  const Table& table_;
  const hsm_runtime::LogCallback log_;  // the library points to it
  trt::Library* library_ = nullptr;
  Machine machine_ = {};
};

// The device's memory.
class DeviceMemory final : public Memory {
 public:
  DeviceMemory(std::shared_ptr<const Client> client, int device) : client_(std::move(client)), device_(device) {}
  Device device() const override { return {Device::Kind::kCuda, device_}; }
  std::size_t alignment() const override { return 256; }  // what setTensorAddress asks for
  std::shared_ptr<std::byte> allocate(std::size_t bytes) const override;
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) const override;
  void clear(std::byte* memory, std::size_t bytes) const override;

 private:
  std::shared_ptr<const Client> client_;
  int device_;
};

// Tensors as the table takes them; they point to the texts in here.
class CallTensors {
 public:
  explicit CallTensors(std::span<const NamedTensor> tensors);
  const hsmrt_tensor* data() const { return tensors_.data(); }
  std::size_t size() const { return tensors_.size(); }

 private:
  std::vector<std::string> names_;
  std::vector<hsmrt_tensor> tensors_;
};

}  // namespace hsm::runtime::trt
