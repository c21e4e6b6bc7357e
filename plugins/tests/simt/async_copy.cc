#include "async_copy.h"

#include <cstring>

namespace hsm::simt {
namespace {

constexpr std::size_t kBytes = 16;

bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % kBytes == 0; }

}  // namespace

void cp_async_16(void* shared, const void* global, int bytes, const Where& where) {
  if (!is_aligned(shared) || !is_aligned(global)) running->fail("cp.async", "an address not aligned to 16", where);
  if (bytes < 0 || bytes > static_cast<int>(kBytes)) running->fail("cp.async", "a number of bytes not in 0..16", where);
  if (!running->is_shared(shared, kBytes)) running->fail("cp.async", "writes outside of shared memory", where);
  std::memset(shared, 0xff, kBytes);
  Thread& thread = *running->current;
  thread.copies.push_back({shared, global, bytes, thread.groups});
}

void cp_async_commit() { ++running->current->groups; }

void cp_async_wait(int pending) {
  Thread& thread = *running->current;
  std::size_t done = 0;
  for (; done < thread.copies.size(); ++done) {
    const Copy& copy = thread.copies[done];
    if (copy.group + static_cast<unsigned>(pending) >= thread.groups) break;
    std::memset(copy.shared, 0, kBytes);
    if (copy.bytes > 0) std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.bytes));
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace hsm::simt
