#pragma once

#include <unordered_map>

#include "collectives/local.h"
#include "collectives/queue.h"
#include "cpu/executor.h"
#include "cpu/memory.h"
#include "device_worker.h"

namespace lazuli {

/// One device of the CPU.
class CpuWorker final : public Worker {
 public:
  /// What devices beside this one need of it; the mesh is null where there is no other in this process.
  struct Place {
    int device = 0, first = 0;  // of the process
    int threads = 0;            // for kernels; 0: the process's
    LocalMesh* mesh = nullptr;
    std::shared_ptr<Communicator> communicator;
  };
  CpuWorker(size_t limitBytes, const Clock& clock, Place place);

  void run(std::shared_ptr<DeviceRun> run) override;
  std::shared_ptr<Incoming> take(size_t bytes) override;
  void upload(BufferId id, std::shared_ptr<Incoming> bytes, std::function<void(std::byte*)> fill) override;
  void download(BufferId id, std::span<std::byte> target,
                std::function<void(std::string error)> done) override;
  void free(std::vector<BufferId> ids) override;
  void trimArena(std::shared_ptr<const Executable> last, size_t bytes) override;
  void push(std::function<void()> job) override { executor_.push(std::move(job)); }

  DeviceStats stats() const override { return memory_.stats(); }
  void beginClosing() override {
    executor_.beginClosing();
    if (place_.communicator) place_.communicator->close();
  }

 private:
  /// A buffer whose run failed has that run's error and no memory.
  struct Arrived;
  struct Buffer {
    Block block;
    std::shared_ptr<const std::string> error;
  };

  // On the executor's thread:
  void execute(DeviceRun& run);
  void compute(const DeviceRun& run, std::vector<Block>& fresh, RunResult& result);
  void attempt(const DeviceRun& run, std::vector<Block>& fresh, RunResult& result);
  void endCollectives(DeviceRun& run, RunResult& result);
  std::string read(BufferId buffer, std::span<std::byte> target);

  const Clock& clock_;
  const Place place_;
  CpuMemory memory_;
  std::unordered_map<BufferId, Buffer> buffers_;  // the executor's
  std::unique_ptr<CollectiveQueue> queue_;        // null where there is no communicator
  Executor executor_;                             // last: it stops before what its jobs use goes
};

}  // namespace lazuli
