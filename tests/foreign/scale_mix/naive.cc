#include "hsm_operators/common/cpu/element.h"
#include "scale_mix/args.gen.h"

namespace hsm {

void scale_mix_naive(const ScaleMixArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    for (std::int64_t i = 0; i < args.batch * args.length * args.width; ++i) {
      const double factor = cpu::load<T>(args.gain, i % args.width) * static_cast<double>(args.times);
      cpu::store<T>(args.y, i, cpu::load<T>(args.x, i) * factor);
    }
  });
}

}  // namespace hsm
