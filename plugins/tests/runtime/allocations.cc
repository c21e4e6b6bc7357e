#include "tests/runtime/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HSM_COUNTS false
#else
#define HSM_COUNTS true
#endif

namespace {

std::atomic<long> count = 0;

}  // namespace

#if HSM_COUNTS
void* operator new(std::size_t size) {
  ++count;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace hsm::testing {

long allocations() { return count; }
bool counts_allocations() { return HSM_COUNTS; }

}  // namespace hsm::testing
