#include "runtime/worker.h"

#include <utility>

#include "runtime/error.h"

namespace hsm::runtime {

struct Worker::Task {
  std::function<void()> body;
  bool done = false;  // guarded by the worker's mutex, as is the status
  Status status;
};

class Worker::Waiter final : public Started {
 public:
  Waiter(Worker& worker, std::shared_ptr<Task> task) : worker_(worker), task_(std::move(task)) {}
  ~Waiter() override { wait_for_end(); }

  bool done() const override {
    const std::lock_guard lock(worker_.mutex_);
    return task_->done;
  }

  void wait() override {
    wait_for_end();
    if (!task_->status.ok()) fail(task_->status.code(), task_->status.message());
  }

 private:
  void wait_for_end() {
    std::unique_lock lock(worker_.mutex_);
    worker_.changed_.wait(lock, [&] { return task_->done; });
  }

  Worker& worker_;
  std::shared_ptr<Task> task_;
};

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<Started> Worker::start(std::function<void()> body) {
  auto task = std::make_shared<Task>(Task{std::move(body)});
  auto waiter = std::make_unique<Waiter>(*this, task);
  {
    const std::lock_guard lock(mutex_);
    // Nothing may fail once the task is queued, and a waiter without a queued task would wait for ever.
    try {
      if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
      tasks_.push_back(task);
    } catch (...) {
      task->done = true;
      throw;
    }
  }
  changed_.notify_all();
  return waiter;
}

void Worker::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stops_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const std::shared_ptr<Task> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    Status status = guarded_status(task->body);
    lock.lock();
    task->status = std::move(status);
    task->done = true;
    task->body = nullptr;
    changed_.notify_all();
  }
}

}  // namespace hsm::runtime
