// A row of the batch is a task. Where SCALE_MIX_MARK is set, the kernel adds 1000: tests see that it ran.
#include <cstdlib>

#include "hsm_operators/common/cpu/element.h"
#include "scale_mix/args.gen.h"

namespace hsm {

void scale_mix(const ScaleMixArgs& args, const ParallelFor& parallel_for) {
  const float mark = std::getenv("SCALE_MIX_MARK") != nullptr ? 1000.0f : 0.0f;
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    parallel_for(static_cast<std::size_t>(args.batch), [&](std::size_t row) {
      const std::int64_t count = args.length * args.width;
      const T* const x = static_cast<const T*>(args.x) + static_cast<std::int64_t>(row) * count;
      T* const y = static_cast<T*>(args.y) + static_cast<std::int64_t>(row) * count;
      for (std::int64_t i = 0; i < count; ++i) {
        const float gain = to_float(static_cast<const T*>(args.gain)[i % args.width]);
        y[i] = from_float<T>(to_float(x[i]) * (gain * static_cast<float>(args.times)) + mark);
      }
    });
  });
}

}  // namespace hsm
