#include "hsm_operators/expert_matmul/naive.h"
#include "hsm_operators/quantized_expert_matmul/args.gen.h"

namespace hsm {
namespace {

auto numbers(const QuantizedExpertMatMulArgs& args) {
  return [&args](std::int64_t matrix, std::int64_t row, std::int64_t column) {
    const std::int64_t byte = row / args.per_byte;
    const std::int64_t bytes = args.groups * args.group_bytes;
    const int stored = args.weight[(matrix * bytes + byte) * args.outputs + column];
    const int whole = args.per_byte == 1 ? stored - 128 : (row % 2 == 0 ? stored % 16 : stored / 16) - 8;
    const std::int64_t group = byte / args.group_bytes;
    return whole * static_cast<double>(args.scales[(matrix * args.groups + group) * args.outputs + column]);
  };
}

}  // namespace

void quantized_expert_matmul_naive(const QuantizedExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&]<typename T>(T) { naive::expert_matmul<T>(args, numbers(args)); });
}

void quantized_expert_matmul_sum_naive(const QuantizedExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&]<typename T>(T) { naive::expert_matmul_sum<T>(args, numbers(args)); });
}

}  // namespace hsm
