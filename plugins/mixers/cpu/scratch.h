// Working memory of kernels. Allocated anew for each task it would cost page faults that take longer than the
// arithmetic, because C libraries hand large blocks back to the system; here blocks are kept and lent again.
#pragma once

#include <cstddef>
#include <memory>

namespace hsm::cpu {

struct ReturnScratch {
  int size_class = 0;
  void operator()(float* block) const;
};

using Scratch = std::unique_ptr<float[], ReturnScratch>;

// Lends `count` floats, aligned for every vector length, with unspecified contents. Blocks that come back stay
// allocated until the library is unloaded: as many as were ever in use at the same time. Safe to call from any thread.
Scratch lend_scratch(std::size_t count);

}  // namespace hsm::cpu
