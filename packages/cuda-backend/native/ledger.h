#pragma once

#include <functional>
#include <memory>
#include <unordered_map>

#include "executable.h"

namespace lazuli {

/// What a device has been asked for, in the order of the calls: its executables, which buffer ids there are
/// and how large, and whether the next request fits. A device's work runs behind; by order of the calls the
/// two agree. Every `admit` and getter throws std::invalid_argument for what does not exist, before anything
/// changes.
class Ledger {
 public:
  using Lower = std::function<Lowered(const Program& program)>;

  /// For programs over meshes of `deviceCount` devices, which are all asked the same.
  Ledger(const DeviceOptions& options, Lower lower, int deviceCount = 1)
      : options_(options), lower_(std::move(lower)), deviceCount_(deviceCount) {}

  ExecutableId compile(std::span<const uint32_t> words, bool withText);
  const std::shared_ptr<Executable>& executable(ExecutableId id) const;
  void release(ExecutableId id);

  /// Donated inputs go, outputs come. Throws OutOfMemoryError where memory would pass the limit.
  void admitRun(const Executable& executable, std::span<const BufferId> inputs,
                std::span<const BufferId> outputs);
  void admitUpload(BufferId id, size_t bytes);
  void admitFree(std::span<const BufferId> ids);

  size_t bytes(BufferId id) const;
  size_t liveBytes() const { return live_; }
  /// The largest arena of the executables there are.
  size_t arenaBytes() const;

 private:
  void checkInputs(const Executable& executable, std::span<const BufferId> inputs) const;
  void checkOutputs(const Executable& executable, std::span<const BufferId> inputs,
                    std::span<const BufferId> outputs) const;
  void checkMemory(const char* what, size_t bytes, size_t arena) const;

  DeviceOptions options_;
  Lower lower_;
  int deviceCount_;
  std::unordered_map<ExecutableId, std::shared_ptr<Executable>> executables_;
  ExecutableId nextExecutable_ = 1;
  std::unordered_map<BufferId, size_t> buffers_;
  size_t live_ = 0;
  size_t constants_ = 0;
  size_t arena_ = 0;  // the largest that a run has asked for
};

}  // namespace lazuli
