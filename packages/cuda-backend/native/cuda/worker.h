#pragma once

#include <unordered_map>

#include "collectives/local.h"
#include "cpu/executor.h"
#include "cuda/communicator.h"
#include "cuda/completions.h"
#include "cuda/device_program.h"
#include "device_worker.h"

namespace lazuli::cuda {

/// One device on a GPU. Its thread puts work on the stream and goes on; what came of it is told when the GPU
/// is done. Beside other devices of the process, or with collectives that go through the host, it waits for
/// every run.
class CudaWorker final : public Worker {
 public:
  struct Place {
    int device = 0, first = 0;  // of the process
    LocalMesh* mesh = nullptr;  // null where there is no other device in this process
    std::shared_ptr<DeviceCommunicator> communicator;
  };
  CudaWorker(const Gpu& gpu, size_t limitBytes, const Clock& clock, Place place);
  ~CudaWorker() override;

  void run(std::shared_ptr<DeviceRun> run) override;
  std::shared_ptr<Incoming> take(size_t bytes) override;
  void upload(BufferId id, std::shared_ptr<Incoming> bytes, std::function<void(std::byte*)> fill) override;
  void download(BufferId id, std::span<std::byte> target,
                std::function<void(std::string error)> done) override;
  void free(std::vector<BufferId> ids) override;
  void trimArena(std::shared_ptr<const Executable> last, size_t bytes) override;
  void push(std::function<void()> job) override { executor_.push(std::move(job)); }
  DeviceStats stats() const override { return memory_.stats(); }
  void beginClosing() override;

 private:
  struct Staged;
  /// What became of the run that made a buffer; its error is there once the run was told, before that of any
  /// later one.
  struct Outcome {
    std::string error;
  };
  struct Buffer {
    Block block;  // none where the run failed before it was put on the stream
    std::shared_ptr<const Outcome> outcome;
  };
  /// A run on its way.
  struct Flight;

  // On the executor's thread:
  void execute(const std::shared_ptr<DeviceRun>& run);
  void compute(Flight& flight);
  void attempt(Flight& flight);
  void land(const std::shared_ptr<Flight>& flight);
  DeviceProgram& programOf(const Executable& executable);
  // On the completions' thread, or where that has nothing left on the executor's:
  void finish(Flight& flight, const std::string& error);

  const Gpu& gpu_;
  const Clock& clock_;
  const Place place_;
  const bool waits_;  // for every run
  CpuMemory memory_, staging_;
  StreamHandle streamHandle_;
  Block fault_;        // on the GPU
  Block faultCopies_;  // pinned, one for each run on its way
  size_t nextCopy_ = 0;
  std::unique_ptr<Stream> stream_;
  std::unordered_map<BufferId, Buffer> buffers_;  // the executor's
  std::unordered_map<const Executable*, std::unique_ptr<DeviceProgram>> programs_;
  std::unique_ptr<Completions> completions_;
  Executor executor_;  // last: it stops before what its jobs use goes
};

}  // namespace lazuli::cuda
