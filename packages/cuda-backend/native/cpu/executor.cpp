#include "cpu/executor.h"

#include "parallel.h"

namespace lazuli {

Executor::Executor(int threads)
    : thread_([this, threads] {
        setThreadCount(threads);
        work();
      }) {}

void Executor::beginClosing() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  ready_.notify_one();
}

Executor::~Executor() {
  beginClosing();
  thread_.join();
}

void Executor::push(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  ready_.notify_one();
}

void Executor::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ready_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // what it holds goes before the lock is taken again
    lock.lock();
  }
}

}  // namespace lazuli
