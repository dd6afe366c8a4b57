#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "program.h"

namespace lazuli {

using BufferId = uint64_t;
using ExecutableId = uint32_t;

struct DeviceOptions {
  size_t memoryLimitBytes = 0;          // of each device; 0: no limit
  int virtualDevices = 1;               // devices of this process
  bool mpi = false;                     // one device a process of an MPI job
  double collectiveTimeoutMs = 300000;  // LAZULI_COLLECTIVE_TIMEOUT_MS comes before it
};

struct KernelInfo {
  std::string label;
  int64_t node = -1;
  size_t bytes = 0;  // read and written
  double flops = 0;
  size_t scratchBytes = 0;
};

struct ExecutableInfo {
  size_t arenaBytes = 0;       // planned intermediates
  size_t lowerBoundBytes = 0;  // most bytes of intermediates that are live at once in this order
  size_t constantBytes = 0;
  size_t outputBytes = 0;  // fresh buffers a run takes for outputs that take over no donated input
  std::vector<KernelInfo> kernels;
  size_t distinctKernels = 0;  // those that do the same to different values counted once
  std::string text;            // steps and plan, for LAZULI_DEBUG=4 and 5; made only when asked for
};

struct KernelTime {
  double startUs, endUs;  // since the device was made, steady clock
};

struct RunResult {
  std::string error;  // empty: fine
  int64_t errorNode = -1;
  bool outOfMemory = false;
  bool collective = false;  // a CollectiveError
  double startUs = 0, endUs = 0;
  double launchedUs = 0;  // when a GPU had been given all of it; 0 where the device computes by itself
  std::vector<KernelTime> kernels;  // when profiling
};

struct DeviceStats {
  size_t liveBytes = 0;    // buffers that have an id
  size_t cachedBytes = 0;  // freed blocks kept for reuse
  size_t arenaBytes = 0;
  size_t peakBytes = 0;  // most of live + arena + cached so far
};

/// One interface for every device, and for the devices of a mesh that this process drives: a buffer id means
/// a buffer on each of them, and what is asked is asked of all, unless a device is named. Calls come from one
/// thread (JavaScript's). Work is ordered: `run`, `upload`, `download` and `free` take effect in the order
/// they were called; `run` and `download` complete on another thread.
class Device {
 public:
  virtual ~Device() = default;
  virtual ExecutableId compile(std::span<const uint32_t> words, bool withText) = 0;
  virtual const ExecutableInfo& info(ExecutableId executable) const = 0;
  virtual void release(ExecutableId executable) = 0;
  /// Ids of inputs must exist and match the program's types in bytes; outputs are new ids. Donated inputs
  /// cease to exist. `done` is called on an executor thread; it has the first local device's times. A run
  /// that fails on one device fails on all.
  virtual void run(ExecutableId executable, std::span<const BufferId> inputs,
                   std::span<const BufferId> outputs, bool profile, std::function<void(RunResult)> done) = 0;
  /// Copies `bytes` now; the caller may reuse them on return. Without a device every one gets them; with one,
  /// the buffer can be used once every local device has got its own, all of one size.
  virtual void upload(BufferId buffer, std::span<const std::byte> bytes,
                      std::optional<int> device = std::nullopt) = 0;
  /// Copies the buffer of a device, the first local one unless said, into `target` (of its size) once the
  /// work before it is done. A buffer whose run failed gives an error.
  virtual void download(BufferId buffer, std::span<std::byte> target,
                        std::function<void(std::string error)> done,
                        std::optional<int> device = std::nullopt) = 0;
  virtual size_t bufferBytes(BufferId buffer) const = 0;
  virtual void free(std::span<const BufferId> buffers) = 0;
  /// Of a device; unless said, of the one whose peak is the highest.
  virtual DeviceStats stats(std::optional<int> device = std::nullopt) const = 0;

  /// Over all processes. Theirs are numbered one process after the other.
  virtual int deviceCount() const = 0;
  virtual int firstLocalDevice() const = 0;
  virtual int localDeviceCount() const = 0;
  /// Every process's bytes, by rank, once all have called it; in order with the runs. With `mustAgree`, where
  /// they differ every later run fails before its first collective.
  using Exchanged = std::function<void(RunResult result, std::vector<std::vector<std::byte>> bytes)>;
  virtual void exchange(std::span<const std::byte> bytes, bool mustAgree, Exchanged done) = 0;
};

std::unique_ptr<Device> makeCpuDevice(const DeviceOptions& options);
/// NVIDIA GPUs; of builds with CUDA (LAZULI_HAVE_CUDA). Throws cuda::CudaError where there is none.
std::unique_ptr<Device> makeCudaDevice(const DeviceOptions& options);
struct GpuInfo {
  std::string name, computeCapability;
  size_t memoryBytes;
};
/// The GPUs that makeCudaDevice can use; where there are none, `reason` says why.
std::vector<GpuInfo> listGpus(std::string& reason);
/// Decodes, plans and accounts as the CPU does, and computes nothing: outputs are zeros. For measuring the
/// host side.
std::unique_ptr<Device> makeNullDevice(const DeviceOptions& options);

}  // namespace lazuli
