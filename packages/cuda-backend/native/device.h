#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "program.h"

namespace lazuli {

using BufferId = uint64_t;
using ExecutableId = uint32_t;

struct DeviceOptions {
  size_t memoryLimitBytes = 0;  // 0: no limit
};

struct KernelInfo {
  std::string label;
  int64_t node = -1;
  size_t bytes = 0;  // read and written
  double flops = 0;
};

struct ExecutableInfo {
  size_t arenaBytes = 0;       // planned intermediates
  size_t lowerBoundBytes = 0;  // most bytes of intermediates that are live at once in this order
  size_t constantBytes = 0;
  size_t outputBytes = 0;  // fresh buffers a run takes for outputs that take over no donated input
  std::vector<KernelInfo> kernels;
  std::string text;  // steps and plan, for LAZULI_DEBUG=4 and 5; made only when asked for
};

struct KernelTime {
  double startUs, endUs;  // since the device was made, steady clock
};

struct RunResult {
  std::string error;  // empty: fine
  int64_t errorNode = -1;
  bool outOfMemory = false;
  double startUs = 0, endUs = 0;
  std::vector<KernelTime> kernels;  // when profiling
};

struct DeviceStats {
  size_t liveBytes = 0;    // buffers that have an id
  size_t cachedBytes = 0;  // freed blocks kept for reuse
  size_t arenaBytes = 0;
  size_t peakBytes = 0;  // most of live + arena + cached so far
};

/// One interface for every device. Calls come from one thread (JavaScript's). Work is ordered: `run`,
/// `upload`, `download` and `free` take effect in the order they were called; `run` and `download` complete
/// on another thread.
class Device {
 public:
  virtual ~Device() = default;
  virtual ExecutableId compile(std::span<const uint32_t> words, bool withText) = 0;
  virtual const ExecutableInfo& info(ExecutableId executable) const = 0;
  virtual void release(ExecutableId executable) = 0;
  /// Ids of inputs must exist and match the program's types in bytes; outputs are new ids. Donated inputs
  /// cease to exist. `done` is called on the executor thread.
  virtual void run(ExecutableId executable, std::span<const BufferId> inputs,
                   std::span<const BufferId> outputs, bool profile, std::function<void(RunResult)> done) = 0;
  /// Copies `bytes` now; the caller may reuse them on return.
  virtual void upload(BufferId buffer, std::span<const std::byte> bytes) = 0;
  /// Copies the buffer into `target` (of its size) once the work before it is done. A buffer whose run failed
  /// gives an error.
  virtual void download(BufferId buffer, std::span<std::byte> target,
                        std::function<void(std::string error)> done) = 0;
  virtual size_t bufferBytes(BufferId buffer) const = 0;
  virtual void free(std::span<const BufferId> buffers) = 0;
  virtual DeviceStats stats() const = 0;
};

std::unique_ptr<Device> makeCpuDevice(const DeviceOptions& options);
/// Decodes, plans and accounts as the CPU does, and computes nothing: outputs are zeros. For measuring the
/// host side.
std::unique_ptr<Device> makeNullDevice(const DeviceOptions& options);

}  // namespace lazuli
