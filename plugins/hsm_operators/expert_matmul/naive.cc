#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/expert_matmul/args.gen.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// Returns the indices of the k largest logits, larger first, equal ones by index.
std::vector<std::int64_t> top(const float* logits, std::int64_t experts, std::int64_t k) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
  order.resize(static_cast<std::size_t>(k));
  return order;
}

// Adds the gated products of one token and head, x (inputs) at `input`, to `sum` (outputs).
template <typename T>
void add_experts(const ExpertMatMulArgs& args, std::int64_t token, std::int64_t head, std::int64_t input,
                 std::vector<double>& sum) {
  const float* logits = args.logits + (token * args.heads + head) * args.experts;
  for (const std::int64_t expert : top(logits, args.experts, args.active)) {
    const double gate = 1 / (1 + std::exp(-static_cast<double>(logits[expert])));
    const std::int64_t matrix = (head * args.experts + expert) * args.inputs * args.outputs;
    for (std::int64_t i = 0; i < args.inputs; ++i) {
      const double scaled = gate * load<T>(args.x, input + i);
      for (std::int64_t o = 0; o < args.outputs; ++o) {
        sum[static_cast<std::size_t>(o)] += scaled * load<T>(args.weight, matrix + i * args.outputs + o);
      }
    }
  }
}

template <typename T>
void store_row(const ExpertMatMulArgs& args, std::int64_t at, const std::vector<double>& sum) {
  for (std::int64_t o = 0; o < args.outputs; ++o) store<T>(args.y, at + o, sum[static_cast<std::size_t>(o)]);
}

}  // namespace

void expert_matmul_naive(const ExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t token = 0; token < args.batch * args.length; ++token) {
      for (std::int64_t head = 0; head < args.heads; ++head) {
        std::vector<double> sum(static_cast<std::size_t>(args.outputs));
        add_experts<decltype(element)>(args, token, head, token * args.inputs, sum);
        store_row<decltype(element)>(args, (token * args.heads + head) * args.outputs, sum);
      }
    }
  });
}

void expert_matmul_sum_naive(const ExpertMatMulArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t token = 0; token < args.batch * args.length; ++token) {
      std::vector<double> sum(static_cast<std::size_t>(args.outputs));
      for (std::int64_t head = 0; head < args.heads; ++head) {
        add_experts<decltype(element)>(args, token, head, (token * args.heads + head) * args.inputs, sum);
      }
      store_row<decltype(element)>(args, token * args.outputs, sum);
    }
  });
}

}  // namespace hsm
