// In a file of its own: where the compiler sees both, it warns of `operator new` and std::free.
#include "tests/tensorrt/allocation.h"

#include <cstdlib>
#include <new>

namespace hsm::testing {

constinit thread_local std::size_t failing_allocation = 0;
constinit thread_local std::size_t allocations = 0;

}  // namespace hsm::testing

void* operator new(std::size_t bytes) {
  using namespace hsm::testing;
  if (failing_allocation != 0 && ++allocations == failing_allocation) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
// AddressSanitizer brings its own of every form that is not replaced, and wants matching pairs.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes == 0 ? 1 : bytes); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
