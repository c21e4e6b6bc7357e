// A ring of one memory page a slot, of which only chosen slots may be touched: any other access ends the test.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace hsm::testing {

class GuardedRing {
 public:
  explicit GuardedRing(std::size_t slots) : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))), slots_(slots) {
    data_ = mmap(nullptr, page_ * slots, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~GuardedRing() { munmap(data_, page_ * slots_); }
  GuardedRing(const GuardedRing&) = delete;
  GuardedRing& operator=(const GuardedRing&) = delete;

  // Floats of a slot, which are zero at first.
  std::size_t width() const { return page_ / sizeof(float); }
  std::size_t slots() const { return slots_; }
  float* data() { return static_cast<float*>(data_); }
  float* slot(std::size_t index) { return data() + index * width(); }

  void allow_reading(std::size_t index) { mprotect(slot(index), page_, PROT_READ); }
  void allow_writing(std::size_t index) { mprotect(slot(index), page_, PROT_READ | PROT_WRITE); }

 private:
  std::size_t page_;
  std::size_t slots_;
  void* data_;
};

}  // namespace hsm::testing
