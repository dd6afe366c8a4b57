#pragma once

#include <unordered_map>

#include "collectives/local.h"
#include "collectives/mpi/communicator.h"
#include "device_worker.h"
#include "ledger.h"

namespace lazuli {

/// One device or several that work side by side: JavaScript's thread checks every request against the one
/// ledger and copies what it brings; each device's worker holds its buffers and does its part.
class WorkerDevice : public Device {
 public:
  ~WorkerDevice() override;

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

 protected:
  /// With a job this process has one device of it. Workers are to be added by the constructor that calls
  /// this.
  WorkerDevice(const DeviceOptions& options, Ledger::Lower lower, MpiJob* job);
  /// The MPI job that the options ask for; null where they do not.
  static MpiJob* jobOf(const DeviceOptions& options);

  Clock clock_;
  const int deviceCount_, first_;
  const std::chrono::milliseconds timeout_;  // in a collective
  int threads_;                              // for what each device does on the host; 0: all
  std::unique_ptr<LocalMesh> mesh_;          // null where there is one device in this process
  std::shared_ptr<MpiCommunicator> mpi_;     // null without MPI
  std::vector<std::unique_ptr<Worker>> workers_;

 private:
  size_t place(int device) const;
  void checkWhole(std::span<const BufferId> buffers) const;
  void uploadAll(BufferId id, std::span<const std::byte> bytes);
  void uploadOne(BufferId id, std::span<const std::byte> bytes, size_t worker);

  Ledger ledger_;
  std::unordered_map<BufferId, std::vector<bool>> uploading_;  // by device: those that not all have got
};

}  // namespace lazuli
