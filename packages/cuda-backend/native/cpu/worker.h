#pragma once

#include <unordered_map>

#include "collectives/local.h"
#include "collectives/queue.h"
#include "cpu/executor.h"
#include "cpu/memory.h"
#include "executable.h"

namespace lazuli {

/// One run, as all devices of this process share it.
struct CpuRun {
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

/// One device of the CPU: its thread, which holds its buffers and does the work, and its memory. What is
/// asked has been checked.
class CpuWorker {
 public:
  /// What devices beside this one need of it; the mesh is null where there is no other in this process.
  struct Place {
    int device = 0, first = 0;  // of the process
    int threads = 0;            // for kernels; 0: the process's
    LocalMesh* mesh = nullptr;
    std::shared_ptr<Communicator> communicator;
  };
  CpuWorker(size_t limitBytes, const Clock& clock, Place place);

  void run(std::shared_ptr<CpuRun> run);
  /// From any thread. Throws std::bad_alloc.
  Block take(size_t bytes) { return memory_.take(bytes); }
  /// `fill`, where there is one, writes the block on the device's thread.
  void upload(BufferId id, std::shared_ptr<Block> block, std::function<void(std::byte*)> fill);
  void download(BufferId id, std::span<std::byte> target, std::function<void(std::string error)> done);
  void free(std::vector<BufferId> ids);
  void trimArena(std::shared_ptr<const Executable> last, size_t bytes);
  void push(std::function<void()> job) { executor_.push(std::move(job)); }

  DeviceStats stats() const { return memory_.stats(); }
  void beginClosing() {
    executor_.beginClosing();
    if (place_.communicator) place_.communicator->close();
  }

 private:
  /// A buffer whose run failed has that run's error and no memory.
  struct Buffer {
    Block block;
    std::shared_ptr<const std::string> error;
  };

  // On the executor's thread:
  void execute(CpuRun& run);
  void compute(const CpuRun& run, std::vector<Block>& fresh, RunResult& result);
  void attempt(const CpuRun& run, std::vector<Block>& fresh, RunResult& result);
  void endCollectives(CpuRun& run, RunResult& result);
  void agree(RunResult& result);
  std::string read(BufferId buffer, std::span<std::byte> target);

  const Clock& clock_;
  const Place place_;
  CpuMemory memory_;
  std::unordered_map<BufferId, Buffer> buffers_;  // the executor's
  std::unique_ptr<CollectiveQueue> queue_;        // null where there is no communicator
  Executor executor_;                             // last: it stops before what its jobs use goes
};

}  // namespace lazuli
