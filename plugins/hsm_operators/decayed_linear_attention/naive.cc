#include <algorithm>
#include <cmath>
#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/decayed_linear_attention/args.gen.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// Adds row `i` times `weight` to `sum`.
void add_row(const std::vector<double>& rows, std::size_t i, double weight, std::vector<double>& sum) {
  for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += weight * rows[i * sum.size() + j];
}

template <typename T>
void scan(const DecayedLinearAttentionArgs& args, std::int64_t b, std::int64_t h) {
  const auto keys = static_cast<std::size_t>(args.key_dim);
  const auto values = static_cast<std::size_t>(args.value_dim);
  const std::int64_t head = (b * args.heads + h) * args.key_dim * args.value_dim;
  std::vector<double> state(args.state + head, args.state + head + args.key_dim * args.value_dim);
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t token = (b * args.length + t) * args.heads + h;
    const auto key_side = [&](const void* data, std::size_t i) {
      return load<T>(data, token * args.key_dim + static_cast<std::int64_t>(i));
    };
    std::vector<double> read(values), y(values);
    for (std::size_t i = 0; i < keys; ++i) {
      if (args.a != nullptr) add_row(state, i, key_side(args.a, i), read);
    }
    for (std::size_t i = 0; i < keys; ++i) {
      const double query = key_side(args.q, i), key = key_side(args.k, i);
      const double written = args.b == nullptr ? 0.0 : key_side(args.b, i);
      const std::int64_t channel = args.decay_dim == 1 ? 0 : static_cast<std::int64_t>(i);
      const double decay = std::exp(load<T>(args.log_decay, token * args.decay_dim + channel));
      if (args.exclusive) add_row(state, i, query, y);
      for (std::size_t j = 0; j < values; ++j) {
        const double value = load<T>(args.v, token * args.value_dim + static_cast<std::int64_t>(j));
        double& entry = state[i * values + j];
        entry = decay * entry + key * value + written * read[j];
      }
      if (!args.exclusive) add_row(state, i, query, y);
    }
    for (std::size_t j = 0; j < values; ++j) {
      store<T>(args.y, token * args.value_dim + static_cast<std::int64_t>(j), y[j]);
    }
  }
  std::ranges::copy(state, args.state_out + head);
}

}  // namespace

void decayed_linear_attention_naive(const DecayedLinearAttentionArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t b = 0; b < args.batch; ++b) {
      for (std::int64_t h = 0; h < args.heads; ++h) scan<decltype(element)>(args, b, h);
    }
  });
}

void decayed_delta_rule_naive(const DecayedLinearAttentionArgs& args) { decayed_linear_attention_naive(args); }

}  // namespace hsm
