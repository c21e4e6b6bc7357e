#include "hsm_operators/expert_matmul/naive.h"

#include "hsm_operators/expert_matmul/args.gen.h"

namespace hsm {
namespace {

template <typename T>
auto numbers(const ExpertMatMulArgs& args) {
  return [&args](std::int64_t matrix, std::int64_t row, std::int64_t column) {
    return cpu::load<T>(args.weight, (matrix * args.inputs + row) * args.outputs + column);
  };
}

}  // namespace

void expert_matmul_naive(const ExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&]<typename T>(T) { naive::expert_matmul<T>(args, numbers<T>(args)); });
}

void expert_matmul_sum_naive(const ExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&]<typename T>(T) { naive::expert_matmul_sum<T>(args, numbers<T>(args)); });
}

}  // namespace hsm
