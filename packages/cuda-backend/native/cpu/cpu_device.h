#pragma once

#include "cpu/executor.h"
#include "cpu/memory.h"
#include "ledger.h"

namespace lazuli {

/// The CPU: JavaScript's thread checks every request against the ledger and copies what it brings; the
/// executor's thread holds the buffers and does the work.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const DeviceOptions& options, Ledger::Lower lower = lazuli::lower);

  ExecutableId compile(std::span<const uint32_t> words, bool withText) override;
  const ExecutableInfo& info(ExecutableId executable) const override;
  void release(ExecutableId executable) override;
  void run(ExecutableId executable, std::span<const BufferId> inputs, std::span<const BufferId> outputs,
           bool profile, std::function<void(RunResult)> done) override;
  void upload(BufferId buffer, std::span<const std::byte> bytes) override;
  void download(BufferId buffer, std::span<std::byte> target,
                std::function<void(std::string error)> done) override;
  size_t bufferBytes(BufferId buffer) const override;
  void free(std::span<const BufferId> buffers) override;
  DeviceStats stats() const override;

 private:
  /// A buffer whose run failed has that run's error and no memory.
  struct Buffer {
    Block block;
    std::shared_ptr<const std::string> error;
  };
  using Ids = std::vector<BufferId>;

  // On the executor's thread:
  void execute(Executable& executable, const Ids& inputs, const Ids& outputs, bool profile,
               RunResult& result);
  void compute(Executable& executable, const Ids& inputs, const Ids& outputs, bool profile,
               RunResult& result);
  std::string read(BufferId buffer, std::span<std::byte> target);

  Clock clock_;
  Ledger ledger_;
  CpuMemory memory_;
  std::unordered_map<BufferId, Buffer> buffers_;  // the executor's
  Executor executor_;                             // last: it stops before what its jobs use goes
};

}  // namespace lazuli
