// Working memory of kernels. Allocated anew for each task it would cost page faults that take longer than the
// arithmetic, because C libraries hand large blocks back to the system; here blocks are kept and lent again.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "hwy/base.h"

namespace hsm::cpu {

struct ReturnScratch {
  int size_class = 0;
  void operator()(float* block) const;
};

using Scratch = std::unique_ptr<float[], ReturnScratch>;

// Under a sanitizer each buffer has the size asked for, so that a use after its end is seen.
inline constexpr bool kSeparate = HWY_IS_ASAN || HWY_IS_MSAN;

// Lends `count` floats, aligned for every vector length, with unspecified contents. Blocks that come back stay
// allocated until the library is unloaded: as many as were ever in use at the same time. Safe to call from any thread.
Scratch lend_scratch(std::size_t count);

// Several buffers that are lent together: for small tasks the locks of many loans would take longer than the work.
template <std::size_t kCount>
class ScratchBuffers {
 public:
  explicit ScratchBuffers(const std::array<std::size_t, kCount>& counts) {
    std::size_t total = 0;
    for (const std::size_t count : counts) total += padded(count);
    if (!kSeparate) blocks_[0] = lend_scratch(total);
    float* next = blocks_[0].get();
    for (std::size_t i = 0; i < kCount; ++i) {
      if (kSeparate) {
        blocks_[i] = lend_scratch(counts[i]);
        next = blocks_[i].get();
      }
      buffers_[i] = next;
      next += padded(counts[i]);
    }
  }

  float* operator[](std::size_t index) const { return buffers_[index]; }

 private:
  // A whole number of the largest vectors.
  static constexpr std::size_t padded(std::size_t count) { return (count + 31) / 32 * 32; }

  std::array<Scratch, kCount> blocks_;
  std::array<float*, kCount> buffers_{};
};

}  // namespace hsm::cpu
