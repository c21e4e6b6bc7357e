#include "hsm_operators/common/cpu/scratch.h"

#include <algorithm>
#include <array>
#include <bit>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "hwy/base.h"

namespace hsm::cpu {
namespace {

using Block = hwy::AlignedFreeUniquePtr<float[]>;

// Free blocks of 2^i floats, by i.
class Shelf {
 public:
  Block take(int size_class) {
    {
      const std::lock_guard lock(mutex_);
      std::vector<Block>& blocks = blocks_[static_cast<std::size_t>(size_class)];
      if (!blocks.empty()) {
        Block block = std::move(blocks.back());
        blocks.pop_back();
        return block;
      }
    }
    return hwy::AllocateAligned<float>(std::size_t{1} << size_class);
  }

  void give_back(int size_class, Block block) {
    const std::lock_guard lock(mutex_);
    blocks_[static_cast<std::size_t>(size_class)].push_back(std::move(block));
  }

 private:
  std::mutex mutex_;
  std::array<std::vector<Block>, 64> blocks_;
};

Shelf& shelf() {
  static Shelf the_shelf;
  return the_shelf;
}

// Blocks above 2^kLargest floats (16 MiB) are rare and not worth keeping. Under a sanitizer none are kept.
constexpr int kLargest = kSeparate ? -1 : 22;

}  // namespace

void ReturnScratch::operator()(float* block) const {
  if (size_class > kLargest) {
    hwy::FreeAlignedBytes(block, nullptr, nullptr);
  } else {
    shelf().give_back(size_class, Block(block));
  }
}

Scratch lend_scratch(std::size_t count) {
  count = std::max<std::size_t>(count, 1);  // Highway refuses empty blocks
  const int size_class = std::bit_width(count - 1);
  Block block = size_class > kLargest ? hwy::AllocateAligned<float>(count) : shelf().take(size_class);
  if (block == nullptr) throw std::bad_alloc();
  return Scratch(block.release(), ReturnScratch{size_class});
}

}  // namespace hsm::cpu
