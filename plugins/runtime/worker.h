// Runs that a thread of the library carries out, for back ends that compute on the thread that calls them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/program.h"

namespace hsm::runtime {

// One thread, started with the first task; tasks run in their order. Its destructor waits for all of them.
class Worker {
 public:
  Worker() = default;
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // `task` may throw Error. The worker must outlive what is returned.
  std::unique_ptr<Started> start(std::function<void()> task);

 private:
  struct Task;
  class Waiter;

  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Task>> tasks_;
  bool stops_ = false;
  std::thread thread_;
};

}  // namespace hsm::runtime
