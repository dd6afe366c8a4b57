#include "cpu/cpu_device.h"

#include "cpu/worker.h"

namespace lazuli {

CpuDevice::CpuDevice(const DeviceOptions& options, Ledger::Lower lower)
    : WorkerDevice(options, std::move(lower), jobOf(options)) {
  for (int i = 0; i < options.virtualDevices; i++) {
    CpuWorker::Place place{first_ + i, first_, threads_, mesh_.get(), mpi_};
    if (mesh_) place.communicator = mesh_->communicator(i);
    workers_.push_back(std::make_unique<CpuWorker>(options.memoryLimitBytes, clock_, std::move(place)));
  }
}

std::unique_ptr<Device> makeCpuDevice(const DeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace lazuli
