#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/expert_matmul/naive.h"
#include "hsm_operators/expert_mlp/activation.h"
#include "hsm_operators/expert_mlp/args.gen.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

double activate(double h, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return h < 0 ? 0 : h;
    case Activation::kGelu:
      return h * (1 + std::erf(h / std::numbers::sqrt2)) / 2;
    case Activation::kGeluTanh:
      return h * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (h + 0.044715 * h * h * h))) / 2;
  }
  return h;
}

// Adds what one expert makes of a token to `sum` (outputs).
template <typename T>
void add_expert(const ExpertMlpArgs& args, std::int64_t token, std::int64_t expert, std::vector<double>& sum) {
  const double gate = 1 / (1 + std::exp(-double{args.logits[token * args.experts + expert]}));
  for (std::int64_t j = 0; j < args.hidden; ++j) {
    double h = 0;
    for (std::int64_t i = 0; i < args.inputs; ++i) {
      h += load<T>(args.x, token * args.inputs + i) * load<T>(args.up, (expert * args.inputs + i) * args.hidden + j);
    }
    const double scaled = gate * activate(h, static_cast<Activation>(args.activation));
    for (std::int64_t o = 0; o < args.outputs; ++o) {
      sum[static_cast<std::size_t>(o)] += scaled * load<T>(args.down, (expert * args.hidden + j) * args.outputs + o);
    }
  }
}

}  // namespace

void expert_mlp_naive(const ExpertMlpArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    for (std::int64_t token = 0; token < args.batch * args.length; ++token) {
      std::vector<double> sum(static_cast<std::size_t>(args.outputs));
      for (const std::int64_t expert : naive::top(args.logits + token * args.experts, args.experts, args.active)) {
        add_expert<T>(args, token, expert, sum);
      }
      for (std::int64_t o = 0; o < args.outputs; ++o) {
        store<T>(args.y, token * args.outputs + o, sum[static_cast<std::size_t>(o)]);
      }
    }
  });
}

}  // namespace hsm
