#include "collectives/queue.h"

#include "parallel.h"

namespace lazuli {

CollectiveQueue::~CollectiveQueue() {
  {
    std::lock_guard lock(mutex_);
    isClosing_ = true;
  }
  started_.notify_one();
  if (thread_.joinable()) thread_.join();
}

uint64_t CollectiveQueue::start(Job job) {
  Lock lock(mutex_);
  if (error_) std::rethrow_exception(error_);  // it need not wait for its end
  jobs_.push_back(std::move(job));
  const uint64_t number = startedCount_++;
  if (!thread_.joinable()) {
    thread_ = std::thread([this] {
      setThreadCount(1);  // the others compute
      work();
    });
  }
  lock.unlock();
  started_.notify_one();
  return number;
}

/// Does the first job. The lock is held, and no other job is under way.
void CollectiveQueue::perform(Lock& lock) {
  Job job = std::move(jobs_.front());
  jobs_.pop_front();
  isBusy_ = true;
  const bool isLeftOut = error_ != nullptr;
  lock.unlock();
  std::exception_ptr error;
  try {
    if (!isLeftOut) job(communicator_);
  } catch (...) {
    error = std::current_exception();
  }
  job = nullptr;
  lock.lock();
  isBusy_ = false;
  finishedCount_++;
  if (error && !error_) error_ = error;
  finished_.notify_all();
}

void CollectiveQueue::work() {
  Lock lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return isClosing_ || (!jobs_.empty() && !isBusy_); });
    if (isClosing_) return;
    communicator_.setAwaited(isWaiting_);
    perform(lock);
  }
}

/// Returns once it holds, having done meanwhile what the other thread has not begun.
void CollectiveQueue::await(Lock& lock, const std::function<bool()>& holds) {
  isWaiting_ = true;
  communicator_.setAwaited(true);
  while (!holds()) {
    if (!isBusy_ && !jobs_.empty())
      perform(lock);
    else
      finished_.wait(lock, [&] { return holds() || (!isBusy_ && !jobs_.empty()); });
  }
  isWaiting_ = false;
}

void CollectiveQueue::wait(uint64_t number) {
  Lock lock(mutex_);
  await(lock, [&] { return finishedCount_ > number; });
  const std::exception_ptr error = error_;
  const bool isMore = !jobs_.empty() && !isBusy_;
  lock.unlock();
  if (isMore) started_.notify_one();  // they were left to this thread while it waited
  if (error) std::rethrow_exception(error);
}

void CollectiveQueue::run(const Job& job) {
  Lock lock(mutex_);
  await(lock, [&] { return finishedCount_ == startedCount_; });
  if (error_) std::rethrow_exception(error_);
  lock.unlock();  // the other thread has nothing to do until this one starts a job
  job(communicator_);
}

void CollectiveQueue::end() noexcept {
  Lock lock(mutex_);
  finishedCount_ += jobs_.size();
  jobs_.clear();
  finished_.wait(lock, [&] { return !isBusy_; });
  error_ = nullptr;
}

}  // namespace lazuli
