#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/quantized_expert_matmul/args.gen.h"

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

// One number of the matrix `index` (inputs,outputs).
double number(const QuantizedExpertMatMulArgs& args, std::int64_t index, std::int64_t row, std::int64_t column) {
  const std::int64_t byte = row / args.per_byte;
  const std::int64_t bytes = args.groups * args.group_bytes;
  const int stored = args.weight[(index * bytes + byte) * args.outputs + column];
  const int whole = args.per_byte == 1 ? stored - 128 : (row % 2 == 0 ? stored % 16 : stored / 16) - 8;
  const std::int64_t group = byte / args.group_bytes;
  return whole * static_cast<double>(args.scales[(index * args.groups + group) * args.outputs + column]);
}

// Adds the gated products of one token and head, x (inputs) at `input`, to `sum` (outputs).
template <typename T>
void add_experts(const QuantizedExpertMatMulArgs& args, std::int64_t token, std::int64_t head, std::int64_t input,
                 std::vector<double>& sum) {
  const float* logits = args.logits + (token * args.heads + head) * args.experts;
  for (const std::int64_t expert : top(logits, args.experts, args.active)) {
    const double gate = 1 / (1 + std::exp(-static_cast<double>(logits[expert])));
    for (std::int64_t i = 0; i < args.inputs; ++i) {
      const double scaled = gate * load<T>(args.x, input + i);
      for (std::int64_t o = 0; o < args.outputs; ++o) {
        sum[static_cast<std::size_t>(o)] += scaled * number(args, head * args.experts + expert, i, o);
      }
    }
  }
}

template <typename T>
void store_row(const QuantizedExpertMatMulArgs& args, std::int64_t at, const std::vector<double>& sum) {
  for (std::int64_t o = 0; o < args.outputs; ++o) store<T>(args.y, at + o, sum[static_cast<std::size_t>(o)]);
}

}  // namespace

void quantized_expert_matmul_naive(const QuantizedExpertMatMulArgs& args) {
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

void quantized_expert_matmul_sum_naive(const QuantizedExpertMatMulArgs& args) {
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
