#include "torch/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <shared_mutex>
#include <system_error>
#include <thread>

namespace hsm::torch {
namespace {

// One call of ParallelFor. No exception may leave a thread: the first one waits here.
class Job {
 public:
  Job(std::size_t count, ParallelFor::Task task, void* context) : count_(count), task_(task), context_(context) {}

  // Takes tasks until none is left.
  void work() noexcept {
    for (std::size_t index = next_++; index < count_; index = next_++) {
      try {
        task_(context_, index);
      } catch (...) {
        std::call_once(failed_, [this] { error_ = std::current_exception(); });
      }
    }
  }

  // Throws what a task threw; all threads must be done.
  void finish() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::size_t count_;
  ParallelFor::Task task_;
  void* context_;
  std::atomic<std::size_t> next_ = 0;
  std::once_flag failed_;
  std::exception_ptr error_;
};

// Threads that wait for jobs, one at a time; they live as long as the process.
class Pool {
 public:
  // Runs a job on this thread and up to `helpers` others. False: another call has them, and nothing was done.
  bool run(Job& job, std::size_t helpers) {
    const std::unique_lock turn(turn_, std::try_to_lock);
    if (!turn) return false;
    {
      const std::lock_guard lock(mutex_);
      grow(helpers);
      job_ = &job;
      seats_ = std::min(helpers, threads_);
    }
    for (std::size_t i = 0; i < std::min(helpers, threads_); ++i) wake_.notify_one();
    job.work();
    std::unique_lock lock(mutex_);
    seats_ = 0;
    done_.wait(lock, [this] { return working_ == 0; });
    return true;
  }

 private:
  void grow(std::size_t wanted) {
    try {
      for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: those that are there do the work.
    }
  }

  [[noreturn]] void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return seats_ > 0; });
      --seats_;
      ++working_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_;  // held by the call that has the threads
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  std::size_t threads_ = 0;
  std::size_t seats_ = 0;    // how many may still join the job
  std::size_t working_ = 0;  // how many did
};

// What a process has of threads. It is never destroyed: the threads wait in it until the process ends.
struct State {
  std::shared_mutex calls;  // shared by the calls that are running
  Pool pool;
};

// The state of this process. A fork waits until no call is running; its child, which has none of the threads, begins
// with a new state.
State*& state() {
  static State* the_state = [] {
    pthread_atfork([] { state()->calls.lock(); }, [] { state()->calls.unlock(); }, [] { state() = new State; });
    return new State;
  }();
  return the_state;
}

}  // namespace

Threads::Threads(int count) : count_(std::max(count, 1)) { state()->calls.lock_shared(); }

Threads::~Threads() { state()->calls.unlock_shared(); }

void Threads::run(void* self, std::size_t count, ParallelFor::Task task, void* context) {
  const auto helpers = std::min(static_cast<std::size_t>(static_cast<Threads*>(self)->count_), count) - 1;
  Job job(count, task, context);
  if (helpers == 0 || !state()->pool.run(job, helpers)) job.work();
  job.finish();
}

}  // namespace hsm::torch
