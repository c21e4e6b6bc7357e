#include <algorithm>
#include <cmath>
#include <vector>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/common/cpu/element.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// Returns phi of one row of d elements; `scale` is the row's length after normalisation.
template <typename T>
std::vector<double> features(const CausalTaylorShiftArgs& args, const void* data, std::int64_t at, double scale) {
  const std::int64_t d = args.dim;
  std::vector<double> phi(static_cast<std::size_t>(taylor_features(d)), 1.0);
  double squares = 0;
  for (std::int64_t i = 0; i < d; ++i) {
    const double value = load<T>(data, at + i);
    phi[static_cast<std::size_t>(1 + i)] = value;
    squares += value * value;
  }
  if (args.normalize) {
    for (std::int64_t i = 1; i <= d; ++i)
      phi[static_cast<std::size_t>(i)] *= scale / std::max(std::sqrt(squares), 1e-12);
  }
  for (std::int64_t p = 0; p < d * (d + 1) / 2; ++p) {
    const std::int64_t i = p % d;
    phi[static_cast<std::size_t>(1 + d + p)] =
        phi[static_cast<std::size_t>(1 + i)] * phi[static_cast<std::size_t>(1 + (i + p / d) % d)];
  }
  return phi;
}

template <typename T>
void scan(const CausalTaylorShiftArgs& args, std::int64_t b, std::int64_t h) {
  const std::int64_t d = args.dim;
  const std::int64_t e = args.value_dim;
  const std::int64_t rows = taylor_features(d);
  const std::int64_t head = b * args.heads + h;
  std::vector<double> state(args.state + head * rows * e, args.state + (head + 1) * rows * e);
  std::vector<double> norm(args.norm + head * rows, args.norm + (head + 1) * rows);
  const double temperature = args.normalize ? load<T>(args.temperature, h) : 1.0;
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t at = (b * args.length + t) * args.heads + h;
    const std::vector<double> k = features<T>(args, args.k, at * d, 1.0);
    const std::vector<double> q = features<T>(args, args.q, at * d, temperature);
    std::vector<double> sum(static_cast<std::size_t>(e));
    double weights = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto feature = static_cast<std::size_t>(r);
      const bool diagonal = r > d && r < 1 + 2 * d;
      const double query = q[feature] * (diagonal ? 0.5 : 1.0);
      norm[feature] += k[feature];
      weights += query * norm[feature];
      for (std::int64_t i = 0; i < e; ++i) {
        double& entry = state[static_cast<std::size_t>(r * e + i)];
        entry += k[feature] * load<T>(args.v, at * e + i);
        sum[static_cast<std::size_t>(i)] += query * entry;
      }
    }
    for (std::int64_t i = 0; i < e; ++i) store<T>(args.y, at * e + i, sum[static_cast<std::size_t>(i)] / weights);
  }
  std::ranges::copy(state, args.state_out + head * rows * e);
  std::ranges::copy(norm, args.norm_out + head * rows);
}

}  // namespace

void causal_taylor_shift_naive(const CausalTaylorShiftArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t b = 0; b < args.batch; ++b) {
      for (std::int64_t h = 0; h < args.heads; ++h) scan<decltype(element)>(args, b, h);
    }
  });
}

}  // namespace hsm
