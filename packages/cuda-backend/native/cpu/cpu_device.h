#pragma once

#include "worker_device.h"

namespace lazuli {

/// The CPU, as one device or several that share its processors.
class CpuDevice final : public WorkerDevice {
 public:
  explicit CpuDevice(const DeviceOptions& options, Ledger::Lower lower = lowerForCpu);
};

}  // namespace lazuli
