// ParallelFor on threads that the caller has.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

#include "hsm_operators/common/types.h"
#include "torch/hsm_kernels.h"

namespace hsm::torch {

// Up to that many threads, for one call of a kernel. None of them is ever waited for by another but at the end, so
// that fewer threads than asked for, one even, do all the work.
class Team {
 public:
  // Null is the calling thread alone.
  Team(hsm_kernels_parallel parallel, int threads)
      : parallel_(parallel), threads_(static_cast<std::size_t>(std::max(threads, 1))) {}

  ParallelFor parallel_for() { return parallel_ == nullptr ? ParallelFor() : ParallelFor(run, this); }

 private:
  // No exception may leave a thread: the first one waits here.
  struct Job {
    std::size_t count;
    ParallelFor::Task task;
    void* context;
    std::atomic<std::size_t> next = 0;
    std::once_flag failed{};
    std::exception_ptr error{};

    // Takes tasks until none is left.
    void work() noexcept {
      for (std::size_t index = next++; index < count; index = next++) {
        try {
          task(context, index);
        } catch (...) {
          std::call_once(failed, [this] { error = std::current_exception(); });
        }
      }
    }
  };

  static void run(void* self, std::size_t count, ParallelFor::Task task, void* context) {
    const Team& team = *static_cast<Team*>(self);
    Job job{count, task, context};
    const auto threads = static_cast<unsigned>(std::min(team.threads_, count));
    if (threads == 1) {
      job.work();
    } else {
      team.parallel_([](void* data) { static_cast<Job*>(data)->work(); }, &job, threads, 0);
    }
    if (job.error) std::rethrow_exception(job.error);
  }

  hsm_kernels_parallel parallel_;
  std::size_t threads_;
};

}  // namespace hsm::torch
