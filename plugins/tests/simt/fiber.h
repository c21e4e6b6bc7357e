// Stacks on which CUDA threads run, and the switch between them and their scheduler.
#pragma once

#include <cstddef>

// HSM_SIMT_UCONTEXT chooses the portable switch where there is a faster one, to test it.
#if defined(__x86_64__) && !defined(HSM_SIMT_UCONTEXT)
#define HSM_SIMT_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace hsm::simt {

// One stack with a guard page below it. Used by one operating-system thread.
class Fiber {
 public:
  using Entry = void (*)();

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() call `entry`, which must not return. What ran before on this stack is forgotten;
  // `abandoned` says that it was given up in the middle.
  void start(Entry entry, bool abandoned);

  // Runs the fiber until it suspends. Called by the scheduler.
  void resume();

  // Goes back to the scheduler; `last` if the fiber will not be resumed. Called on the fiber.
  void suspend(bool last);

 private:
  static void enter();

  void* mapping_ = nullptr;
  char* stack_ = nullptr;
  Entry entry_ = nullptr;
#ifdef HSM_SIMT_OWN_SWITCH
  void* own_ = nullptr;        // stack pointers while the other side runs
  void* scheduler_ = nullptr;  //
#else
  ucontext_t own_{};
  ucontext_t scheduler_{};
#endif
  // AddressSanitizer's books of the two stacks.
  void* fake_own_ = nullptr;
  void* fake_scheduler_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_size_ = 0;
};

}  // namespace hsm::simt
