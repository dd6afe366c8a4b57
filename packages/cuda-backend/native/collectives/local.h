#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "collectives/communicator.h"

namespace lazuli {

/// Why a run failed, and on which device.
struct RunFailure {
  std::string error;
  int64_t node = -1;
  enum class Kind { run, outOfMemory, collective } kind = Kind::run;
};

/// N devices of one process that meet: in collectives, where each takes what it needs straight from the
/// others' memory, and at the end of every run, which has succeeded only where it has on all of them.
class LocalMesh {
 public:
  LocalMesh(int devices, std::chrono::milliseconds timeout);
  ~LocalMesh();

  /// For the thread of one device.
  std::unique_ptr<Communicator> communicator(int device);

  /// Fails the run under way and wakes those who wait. False where it had failed already.
  bool fail(RunFailure failure);
  /// Called by every device when its part of the run is over; returns when all have. The run's failure, if
  /// any.
  std::optional<RunFailure> endRun();
  /// From here on nobody waits in a collective.
  void close();

 private:
  friend class LocalCommunicator;

  /// What a member shows the others.
  struct Post {
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    uint64_t arrivals = 0;
  };
  /// Where one group meets, time after time.
  struct Place {
    std::vector<int> devices;
    std::vector<Post> posts;
    std::mutex mutex;
    std::condition_variable changed;
    size_t arrived = 0;
    std::atomic<uint64_t> rounds{0};
  };

  Place& place(const std::vector<int>& devices);
  void meet(Place& place, const Meeting& meeting);
  void awaitRound(Place& place, uint64_t round, const Meeting& meeting);
  std::string missing(const Place& place, const Meeting& meeting) const;
  [[noreturn]] void giveUp();
  void reset();

  const int devices_;
  const std::chrono::milliseconds timeout_;
  const std::chrono::microseconds patience_;  // how long a device spins before it sleeps

  std::atomic<bool> failed_{false}, closed_{false};
  std::mutex mutex_;  // of all below
  std::condition_variable ended_;
  std::map<std::vector<int>, std::unique_ptr<Place>> places_;
  std::optional<RunFailure> failure_;
  std::shared_ptr<const std::optional<RunFailure>> outcome_;  // of the last run that ended
  int ending_ = 0;
  uint64_t runs_ = 0;
};

}  // namespace lazuli
