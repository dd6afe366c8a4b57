#pragma once

#include "collectives/local.h"
#include "device.h"
#include "parallel.h"

namespace lazuli {

inline constexpr const char* kClosed = "the device was closed";

/// What a run fails with before it does anything: no device's own fault.
class Inherited : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Does `work`, and writes into `result` what it throws. `self` comes before what is this device's own fault,
/// `shortage` says what memory the run needs where there is none left.
void attemptRun(RunResult& result, const std::string& self, const std::string& shortage,
                FunctionRef<void()> work);

/// Tells the other devices that a run failed here. True where this was the first failure.
bool tellMesh(LocalMesh& mesh, const RunResult& result);
/// Makes a run's outcome that of all devices: of a failure, what the device told that was first.
void agreeOn(LocalMesh& mesh, RunResult& result);

}  // namespace lazuli
