#include <algorithm>
#include <cmath>
#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/taylor_shift/taylor_shift.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// Reads one row of d elements, scaled to the length `scale` when the operator normalises.
template <typename T>
std::vector<double> row(const TaylorShiftArgs& args, const void* data, std::int64_t at, double scale) {
  std::vector<double> values(static_cast<std::size_t>(args.dim));
  double squares = 0;
  for (std::int64_t i = 0; i < args.dim; ++i) {
    const double value = load<T>(data, at + i);
    values[static_cast<std::size_t>(i)] = value;
    squares += value * value;
  }
  if (args.normalize) {
    for (double& value : values) value *= scale / std::max(std::sqrt(squares), 1e-12);
  }
  return values;
}

template <typename T>
void attend(const TaylorShiftArgs& args, std::int64_t b, std::int64_t h) {
  const auto row_of = [&](std::int64_t t) { return (b * args.length + t) * args.heads + h; };
  const std::int64_t keys = args.lengths == nullptr ? args.length : args.lengths[b];
  const double temperature = args.normalize ? load<T>(args.temperature, h) : 1.0;
  const double scale = args.output_norm ? std::sqrt(static_cast<double>(keys) / static_cast<double>(args.dim)) : 1.0;
  for (std::int64_t t = 0; t < args.length; ++t) {
    const std::vector<double> q = row<T>(args, args.q, row_of(t) * args.dim, temperature);
    std::vector<double> sum(static_cast<std::size_t>(args.value_dim));
    double weights = 0;
    for (std::int64_t m = 0; m < keys; ++m) {
      const std::vector<double> k = row<T>(args, args.k, row_of(m) * args.dim, 1.0);
      double dot = 0;
      for (std::size_t i = 0; i < q.size(); ++i) dot += q[i] * k[i];
      const double weight = 1 + dot + dot * dot / 2;
      weights += weight;
      for (std::int64_t i = 0; i < args.value_dim; ++i) {
        sum[static_cast<std::size_t>(i)] += weight * load<T>(args.v, row_of(m) * args.value_dim + i);
      }
    }
    for (std::int64_t i = 0; i < args.value_dim; ++i) {
      store<T>(args.y, row_of(t) * args.value_dim + i, sum[static_cast<std::size_t>(i)] / weights * scale);
    }
  }
}

}  // namespace

void taylor_shift_naive(const TaylorShiftArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t b = 0; b < args.batch; ++b) {
      for (std::int64_t h = 0; h < args.heads; ++h) attend<decltype(element)>(args, b, h);
    }
  });
}

}  // namespace hsm
