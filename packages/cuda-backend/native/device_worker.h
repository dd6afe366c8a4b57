#pragma once

#include <atomic>
#include <memory>

#include "executable.h"

namespace lazuli {

/// One run, as all devices of this process share it.
struct DeviceRun {
  std::shared_ptr<const Executable> executable;
  std::vector<BufferId> inputs, outputs;
  bool profile = false;
  std::function<void(RunResult)> done;
  std::atomic<bool> isTold{false};

  /// The first call ends the run for who asked for it.
  void tell(RunResult result) {
    if (!isTold.exchange(true)) done(std::move(result));
  }
};

/// Where an upload's bytes lie until the device has them.
class Incoming {
 public:
  virtual ~Incoming() = default;
  virtual std::byte* data() const = 0;
};

/// One device: its thread, which holds its buffers and does the work, and its memory. What is asked has been
/// checked (ledger.h), and takes effect in the order of the calls.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual void run(std::shared_ptr<DeviceRun> run) = 0;
  /// From any thread. Throws std::bad_alloc.
  virtual std::shared_ptr<Incoming> take(size_t bytes) = 0;
  /// `fill`, where there is one, writes the bytes on the device's thread.
  virtual void upload(BufferId id, std::shared_ptr<Incoming> bytes, std::function<void(std::byte*)> fill) = 0;
  virtual void download(BufferId id, std::span<std::byte> target,
                        std::function<void(std::string error)> done) = 0;
  virtual void free(std::vector<BufferId> ids) = 0;
  /// `last` was released, and no executable that is left needs more than `bytes` of arena.
  virtual void trimArena(std::shared_ptr<const Executable> last, size_t bytes) = 0;
  virtual void push(std::function<void()> job) = 0;
  virtual DeviceStats stats() const = 0;
  /// What waits for the destructor may begin.
  virtual void beginClosing() = 0;
};

}  // namespace lazuli
