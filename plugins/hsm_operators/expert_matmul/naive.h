// Products with chosen experts in the slow and obvious way, whatever holds the matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "hsm_operators/common/cpu/element.h"

namespace hsm::naive {

// Returns the indices of the k largest logits, larger first, equal ones by index.
inline std::vector<std::int64_t> top(const float* logits, std::int64_t experts, std::int64_t k) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
  order.resize(static_cast<std::size_t>(k));
  return order;
}

// Adds the gated products of one token and head, x (inputs) at `input`, to `sum` (outputs).
template <typename T, typename Args, typename Weight>
void add_experts(const Args& args, std::int64_t token, std::int64_t head, std::int64_t input, const Weight& weight,
                 std::vector<double>& sum) {
  const float* logits = args.logits + (token * args.heads + head) * args.experts;
  for (const std::int64_t expert : top(logits, args.experts, args.active)) {
    const double gate = 1 / (1 + std::exp(-static_cast<double>(logits[expert])));
    for (std::int64_t i = 0; i < args.inputs; ++i) {
      const double scaled = gate * cpu::load<T>(args.x, input + i);
      for (std::int64_t o = 0; o < args.outputs; ++o) {
        sum[static_cast<std::size_t>(o)] += scaled * weight(head * args.experts + expert, i, o);
      }
    }
  }
}

template <typename T, typename Args>
void store_row(const Args& args, std::int64_t at, const std::vector<double>& sum) {
  for (std::int64_t o = 0; o < args.outputs; ++o) cpu::store<T>(args.y, at + o, sum[static_cast<std::size_t>(o)]);
}

// ExpertMatMul: every head by itself. `weight(matrix, row, column)` is a number of a matrix.
template <typename T, typename Args, typename Weight>
void expert_matmul(const Args& args, const Weight& weight) {
  for (std::int64_t token = 0; token < args.batch * args.length; ++token) {
    for (std::int64_t head = 0; head < args.heads; ++head) {
      std::vector<double> sum(static_cast<std::size_t>(args.outputs));
      add_experts<T>(args, token, head, token * args.inputs, weight, sum);
      store_row<T>(args, (token * args.heads + head) * args.outputs, sum);
    }
  }
}

// ExpertMatMulSum: the sum of all heads.
template <typename T, typename Args, typename Weight>
void expert_matmul_sum(const Args& args, const Weight& weight) {
  for (std::int64_t token = 0; token < args.batch * args.length; ++token) {
    std::vector<double> sum(static_cast<std::size_t>(args.outputs));
    for (std::int64_t head = 0; head < args.heads; ++head) {
      add_experts<T>(args, token, head, (token * args.heads + head) * args.inputs, weight, sum);
    }
    store_row<T>(args, token * args.outputs, sum);
  }
}

}  // namespace hsm::naive
