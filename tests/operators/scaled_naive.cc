// The definition of test_foreign_kernels.py's operator.
#include "hsm_operators/common/types.h"
#include "scaled/args.gen.h"

namespace hsm {

void scaled_sum_naive(const ScaledSumArgs& args) {
  for (std::int64_t i = 0; i < args.batch * args.length; ++i) {
    static_cast<float*>(args.y)[i] = static_cast<const float*>(args.x)[i] * static_cast<float>(args.factor);
  }
}

}  // namespace hsm
