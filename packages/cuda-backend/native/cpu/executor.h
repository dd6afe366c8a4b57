#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lazuli {

/// One thread that does jobs in order. It is the one thread that enters OpenMP's pool, which belongs to the
/// thread that enters it. Jobs must not throw.
class Executor {
 public:
  /// `threads`: what kernels may use (parallel.h); 0: the process's.
  explicit Executor(int threads = 0);
  /// Jobs that are left are still called, and are to see `closing` and be brief.
  ~Executor();
  void push(std::function<void()> job);
  /// What waits for the destructor may begin.
  void beginClosing();
  const std::atomic<bool>& closing() const { return closing_; }

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  std::atomic<bool> closing_{false};
  std::thread thread_;  // last: it starts when the rest is there
};

}  // namespace lazuli
