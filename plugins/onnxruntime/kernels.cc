#include "onnxruntime/kernels.h"

#include <stdexcept>
#include <string>

#include "hsm_operators/common/cpu/kernels.h"

namespace hsm::onnxruntime {

bool has_kernel(const opset::Operator& op) { return cpu::kernel_of(op) != nullptr; }

void compute(const opset::Operator& op, const Call& call, const Execution& execution) {
  const cpu::Kernel* kernel = cpu::kernel_of(op);
  if (kernel == nullptr) throw std::logic_error(std::string(op.name) + ": this library has no CPU kernel of it");
  kernel->run(call, execution.parallel_for);
}

Packed pack_constant(const opset::Operator& op, DType type, std::size_t input, const opset::Shape& shape,
                     const void* data, std::size_t limit) {
  const cpu::Kernel* kernel = cpu::kernel_of(op);
  if (kernel == nullptr || kernel->packing.input != static_cast<int>(input)) return nullptr;
  return kernel->packing.pack(type, shape, data, limit);
}

const char* execution_provider() { return nullptr; }

}  // namespace hsm::onnxruntime
