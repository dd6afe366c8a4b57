#pragma once

#include "cuda/gpu.h"
#include "worker_device.h"

namespace lazuli::cuda {

/// GPUs as devices: one of this process, each process's own under MPI, or several virtual ones, which share
/// the GPUs there are.
class CudaDevice final : public WorkerDevice {
 public:
  /// Throws CudaError.
  explicit CudaDevice(const DeviceOptions& options);

 private:
  CudaDevice(const DeviceOptions& options, MpiJob* job);
};

}  // namespace lazuli::cuda
