// The kernels of test_generate.py's operator.
#include "gated/args.gen.h"

namespace hsm {

void gated_sum(const GatedSumArgs& args, const ParallelFor& /*parallel_for*/) {
  *static_cast<float*>(args.y) =
      args.slope + static_cast<float>(args.key_width * 100 + args.is_signed * 10 + args.steps.back());
}

Packed pack_constant(const GatedSumArgs& args) { return std::make_shared<float[]>(packed_count(args)); }

std::size_t packed_count(const GatedSumArgs& args) { return static_cast<std::size_t>(args.rows * args.key_width); }

}  // namespace hsm
