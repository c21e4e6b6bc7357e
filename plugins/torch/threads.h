// Threads of the library's own, because those of PyTorch cannot be had without its headers.
#pragma once

#include "hsm_operators/common/types.h"

namespace hsm::torch {

// Up to that many threads, the calling one included, for one call of a kernel. While another call has the threads, and
// where the system gives none, the calling thread does all the work. After a fork the child starts threads of its own.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  ParallelFor parallel_for() { return {run, this}; }

 private:
  static void run(void* self, std::size_t count, ParallelFor::Task task, void* context);

  int count_;
};

}  // namespace hsm::torch
