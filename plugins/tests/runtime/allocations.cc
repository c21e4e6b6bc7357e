#include "tests/runtime/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HSM_COUNTS false
#else
#define HSM_COUNTS true
#endif

namespace {

std::atomic<long> count = 0;
thread_local bool fails_next = false;

}  // namespace

#if HSM_COUNTS
void* operator new(std::size_t size) {
  ++count;
  void* const memory = std::exchange(fails_next, false) ? nullptr : std::malloc(size);
  if (memory != nullptr) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace hsm::testing {

long allocations() { return count; }
void fail_next_allocation() { fails_next = HSM_COUNTS; }
bool counts_allocations() { return HSM_COUNTS; }

}  // namespace hsm::testing
