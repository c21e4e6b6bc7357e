#include <algorithm>
#include <cmath>

#include "hsm_operators/common/cpu/element.h"
#include "rg_lru/args.gen.h"

namespace hsm {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

// One channel of one row.
template <typename T>
void scan(const RglruArgs& args, std::int64_t b, std::int64_t d) {
  const double rate = softplus(cpu::load<T>(args.rate, d));
  double h = args.h[b * args.width + d];
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t at = (b * args.length + t) * args.width + d;
    const double log_a = -8 * rate * sigmoid(cpu::load<T>(args.r, at));
    const double input = sigmoid(cpu::load<T>(args.i, at)) * cpu::load<T>(args.x, at);
    h = std::exp(log_a) * h + std::sqrt(-std::expm1(2 * log_a)) * input;
    cpu::store<T>(args.y, at, h);
  }
  args.h_out[b * args.width + d] = static_cast<float>(h);
}

}  // namespace

void rglru_naive(const RglruArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t b = 0; b < args.batch; ++b) {
      for (std::int64_t d = 0; d < args.width; ++d) scan<decltype(element)>(args, b, d);
    }
  });
}

}  // namespace hsm
