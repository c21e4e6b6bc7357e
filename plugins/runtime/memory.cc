#include <cstring>

#include "runtime/program.h"

namespace hsm::runtime {
namespace {

class CpuMemory final : public Memory {
 public:
  Device device() const override { return {}; }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) const override {
    return {new std::byte[bytes](), std::default_delete<std::byte[]>()};
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  void clear(std::byte* memory, std::size_t bytes) const override { std::memset(memory, 0, bytes); }
};

}  // namespace

const Memory& cpu_memory() {
  static const CpuMemory memory;
  return memory;
}

}  // namespace hsm::runtime
