#pragma once

#include <unordered_map>

#include "collectives/mpi/communicator.h"
#include "cpu/worker.h"
#include "ledger.h"

namespace lazuli {

/// The CPU, as one device or several that work side by side: JavaScript's thread checks every request against
/// the one ledger and copies what it brings; each device's worker holds its buffers and does its part.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const DeviceOptions& options, Ledger::Lower lower = lowerForCpu);
  ~CpuDevice() override;

  ExecutableId compile(std::span<const uint32_t> words, bool withText) override;
  const ExecutableInfo& info(ExecutableId executable) const override;
  void release(ExecutableId executable) override;
  void run(ExecutableId executable, std::span<const BufferId> inputs, std::span<const BufferId> outputs,
           bool profile, std::function<void(RunResult)> done) override;
  void upload(BufferId buffer, std::span<const std::byte> bytes,
              std::optional<int> device = std::nullopt) override;
  void download(BufferId buffer, std::span<std::byte> target, std::function<void(std::string error)> done,
                std::optional<int> device = std::nullopt) override;
  size_t bufferBytes(BufferId buffer) const override;
  void free(std::span<const BufferId> buffers) override;
  DeviceStats stats(std::optional<int> device = std::nullopt) const override;
  int deviceCount() const override { return deviceCount_; }
  int firstLocalDevice() const override { return first_; }
  int localDeviceCount() const override { return static_cast<int>(workers_.size()); }
  void exchange(std::span<const std::byte> bytes, bool mustAgree, Exchanged done) override;

 private:
  CpuDevice(const DeviceOptions& options, Ledger::Lower lower, MpiJob* job);

  size_t place(int device) const;
  void checkWhole(std::span<const BufferId> buffers) const;
  void uploadAll(BufferId id, std::span<const std::byte> bytes);
  void uploadOne(BufferId id, std::span<const std::byte> bytes, size_t worker);

  Clock clock_;
  const int deviceCount_, first_;
  Ledger ledger_;
  int threads_;                                                // for each device's kernels; 0: all
  std::unordered_map<BufferId, std::vector<bool>> uploading_;  // by device: those that not all have got
  std::unique_ptr<LocalMesh> mesh_;
  std::shared_ptr<MpiCommunicator> mpi_;
  std::vector<std::unique_ptr<CpuWorker>> workers_;
};

}  // namespace lazuli
