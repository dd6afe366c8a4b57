#pragma once

#include <string>

#include "collectives/mpi/api.h"

namespace lazuli {

/// This process's part in the MPI job, which lasts from the first device until the process exits: MPI can be
/// begun and ended once. At exit the job is ended in order, or aborted where it is broken or the process
/// failed, so that no rank waits for one that is gone.
class MpiJob {
 public:
  /// Begins the job where it has not begun. Throws std::invalid_argument where there is no library or no MPI.
  /// For one device at a time.
  static MpiJob& open(double timeoutMs);
  void close() { isOpen_ = false; }

  const LazuliMpiApi& api() const { return *api_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  int ranksOfThisHost() const { return ranksOfThisHost_; }
  int rankOnThisHost() const { return rankOnThisHost_; }

  /// Empty while the job is well.
  const std::string& failure() const { return failure_; }
  /// From here on every collective fails. `isOwn`: it began here; the others and the user are told.
  void fail(const std::string& error, bool isOwn);

 private:
  void begin();
  static void end(int status);

  const LazuliMpiApi* api_ = nullptr;
  int rank_ = 0, size_ = 1, ranksOfThisHost_ = 1, rankOnThisHost_ = 0;
  double timeoutMs_ = 0;
  bool isOpen_ = false;
  std::string failure_;
};

}  // namespace lazuli
