#include "cuda/cuda_device.h"

#include <cstdlib>

#include "cuda/driver.h"
#include "cuda/kernels.h"
#include "cuda/nccl_communicator.h"
#include "cuda/staged_communicator.h"
#include "cuda/worker.h"

namespace lazuli::cuda {
namespace {

// Of the memory that is free when the device opens: the rest is for the driver, for code and for libraries.
constexpr double kUsable = 0.95;

int firstGpu(const MpiJob* job) {
  const char* chosen = std::getenv("LAZULI_CUDA_DEVICE");
  if (chosen) return std::atoi(chosen);
  return job ? job->rankOnThisHost() % Gpu::count() : 0;
}

/// Without a limit of the user's, what fits: so that a plan which does not is refused before anything runs.
DeviceOptions limited(DeviceOptions options, const MpiJob* job) {
  if (options.memoryLimitBytes > 0) return options;
  const auto free = static_cast<double>(Gpu::open(firstGpu(job)).freeBytes());
  const int sharing = std::max(1, (options.virtualDevices + Gpu::count() - 1) / Gpu::count());
  options.memoryLimitBytes = static_cast<size_t>(kUsable * free / sharing);
  return options;
}

/// What is fused is compiled with the program, several kernels at a time, and not one by one in its first
/// run.
Ledger::Lower lowerForCuda(const MpiJob* job, bool deterministic) {
  return [target = Gpu::open(firstGpu(job)).target(), deterministic](const Program& program) {
    Lowered lowered = lower(program, kernels(deterministic));
    prepare(lowered, target);
    return lowered;
  };
}

}  // namespace

CudaDevice::CudaDevice(const DeviceOptions& options) : CudaDevice(options, jobOf(options)) {}

CudaDevice::CudaDevice(const DeviceOptions& options, MpiJob* job)
    : WorkerDevice(limited(options, job), lowerForCuda(job, options.deterministic), job) {
  // Asked for before the first worker takes memory: the same for all, and the ledger's.
  const size_t limit = limited(options, job).memoryLimitBytes;
  for (int i = 0; i < options.virtualDevices; i++) {
    const Gpu& gpu = Gpu::open((firstGpu(job) + i) % Gpu::count());
    gpu.makeCurrent();
    CudaWorker::Place place{first_ + i, first_, mesh_.get(), nullptr};
    if (mesh_) place.communicator = std::make_shared<StagedCommunicator>(mesh_->communicator(i));
    if (mpi_) {
      const bool isAlone = job->ranksOfThisHost() <= Gpu::count() && !std::getenv("LAZULI_CUDA_DEVICE");
      place.communicator =
          makeDeviceCommunicator(gpu, isAlone, mpi_, deviceCount_, timeout_.count() / 1000.0);
    }
    workers_.push_back(std::make_unique<CudaWorker>(gpu, limit, clock_, std::move(place)));
  }
}

}  // namespace lazuli::cuda

namespace lazuli {

std::unique_ptr<Device> makeCudaDevice(const DeviceOptions& options) {
  return std::make_unique<cuda::CudaDevice>(options);
}

std::vector<GpuInfo> listGpus(std::string& reason) {
  std::vector<GpuInfo> gpus;
  try {
    for (int i = 0; i < cuda::Gpu::count(); i++) {
      const cuda::Gpu gpu = cuda::Gpu::describe(i);
      const cuda::Target& target = gpu.target();
      gpus.push_back(
          {gpu.name(), std::to_string(target.major) + "." + std::to_string(target.minor), gpu.totalBytes()});
    }
  } catch (const cuda::CudaError& error) {
    reason = error.what();
  }
  return gpus;
}

}  // namespace lazuli
