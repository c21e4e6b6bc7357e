#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "short_convolution/args.gen.h"

namespace hsm {
namespace {

// One channel of one row: the products, those of the tail first.
template <typename T>
void convolve(const GatedShortConvolutionArgs& args, std::int64_t b, std::int64_t d) {
  std::vector<double> products;
  for (std::int64_t i = 0; i < args.ring_rows; ++i) {
    products.push_back(args.tail[(b * args.ring_rows + i) * args.width + d]);
  }
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t at = (b * args.length + t) * args.width + d;
    products.push_back(cpu::load<T>(args.b, at) * cpu::load<T>(args.x, at));
    double sum = 0;
    for (std::int64_t i = 0; i < args.K; ++i) {
      sum += cpu::load<T>(args.weight, d * args.K + i) * products[static_cast<std::size_t>(t + i)];
    }
    cpu::store<T>(args.y, at, cpu::load<T>(args.c, at) * sum);
  }
  for (std::int64_t i = 0; i < args.ring_rows; ++i) {
    const double product = products[static_cast<std::size_t>(args.lengths[b] + i)];
    args.tail_out[(b * args.ring_rows + i) * args.width + d] = static_cast<float>(product);
  }
}

}  // namespace

void gated_short_convolution_naive(const GatedShortConvolutionArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    for (std::int64_t b = 0; b < args.batch; ++b) {
      for (std::int64_t d = 0; d < args.width; ++d) convolve<decltype(element)>(args, b, d);
    }
  });
}

}  // namespace hsm
