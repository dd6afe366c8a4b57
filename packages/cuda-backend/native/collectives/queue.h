#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "collectives/communicator.h"

namespace lazuli {

/// The collectives of one device in the order they were started, one at a time: on a thread of its own while
/// the device computes, or on the device's, where that has come to wait for one that has not begun. The
/// communicator is never used by two threads at once. After one has failed the others of the run are left
/// out.
class CollectiveQueue {
 public:
  using Job = std::function<void(Communicator& communicator)>;

  explicit CollectiveQueue(Communicator& communicator) : communicator_(communicator) {}
  ~CollectiveQueue();
  CollectiveQueue(const CollectiveQueue&) = delete;
  CollectiveQueue& operator=(const CollectiveQueue&) = delete;

  // All from the device's thread:
  /// Gives the job's number, for `wait`.
  uint64_t start(Job job);
  /// Returns when that job is done. Throws what a job of this run threw.
  void wait(uint64_t number);
  /// Does the job on the calling thread, behind those that were started. Throws what it, or one of them,
  /// threw.
  void run(const Job& job);
  /// The end of a run that succeeded or failed: leaves out jobs that have not begun, waits for the one under
  /// way, and forgets the error. What that one waits for must have been told to give up where the run failed.
  void end() noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;

  void work();
  void perform(Lock& lock);
  void await(Lock& lock, const std::function<bool()>& holds);

  Communicator& communicator_;
  std::mutex mutex_;  // of all below
  std::condition_variable started_, finished_;
  std::deque<Job> jobs_;
  uint64_t startedCount_ = 0, finishedCount_ = 0;
  bool isBusy_ = false, isWaiting_ = false, isClosing_ = false;
  std::exception_ptr error_;  // of this run
  std::thread thread_;        // from the first job on
};

}  // namespace lazuli
