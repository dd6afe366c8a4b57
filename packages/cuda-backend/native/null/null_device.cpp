#include <algorithm>

#include "ledger.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// Does all that the CPU does on the calling thread, and nothing else: no arena, no kernels, no memory for
/// outputs. Of many devices it is the first: the others would plan and account the same.
class NullDevice final : public Device {
 public:
  explicit NullDevice(const DeviceOptions& options)
      : devices_(checkedCount(options)),
        threads_(devices_ == 1 ? 0 : std::max(1, threadCount() / devices_)),
        ledger_(options, lowerForCpu, devices_) {}

  ExecutableId compile(std::span<const uint32_t> words, bool withText) override {
    ThreadCountScope planned(threads_);
    return ledger_.compile(words, withText);
  }
  const ExecutableInfo& info(ExecutableId executable) const override {
    return ledger_.executable(executable)->info();
  }
  void release(ExecutableId executable) override { ledger_.release(executable); }

  void run(ExecutableId id, std::span<const BufferId> inputs, std::span<const BufferId> outputs, bool profile,
           std::function<void(RunResult)> done) override {
    std::shared_ptr<Executable> executable = ledger_.executable(id);
    ledger_.admitRun(*executable, inputs, outputs);
    for (size_t i = 0; i < inputs.size(); i++) {
      if (executable->isDonated(i)) uploaded_.erase(inputs[i]);
    }
    notePeak();
    RunResult result;
    result.startUs = result.endUs = clock_.us();
    if (profile) result.kernels.assign(executable->info().kernels.size(), {result.startUs, result.startUs});
    done(std::move(result));
  }

  void upload(BufferId buffer, std::span<const std::byte> bytes, std::optional<int> device) override {
    check(device);
    if (device.value_or(0) > 0) return;
    ledger_.admitUpload(buffer, bytes.size());
    uploaded_[buffer].assign(bytes.begin(), bytes.end());
    notePeak();
  }

  void download(BufferId buffer, std::span<std::byte> target, std::function<void(std::string error)> done,
                std::optional<int> device) override {
    check(device);
    if (ledger_.bytes(buffer) != target.size()) throw std::invalid_argument("the target differs in size");
    auto found = uploaded_.find(buffer);
    for (size_t i = 0; i < target.size(); i++)
      target[i] = found == uploaded_.end() ? std::byte{0} : found->second[i];
    done("");
  }

  size_t bufferBytes(BufferId buffer) const override { return ledger_.bytes(buffer); }

  void free(std::span<const BufferId> buffers) override {
    ledger_.admitFree(buffers);
    for (BufferId id : buffers) uploaded_.erase(id);
  }

  DeviceStats stats(std::optional<int> device) const override {
    check(device);
    DeviceStats stats;
    stats.liveBytes = ledger_.liveBytes();
    stats.arenaBytes = ledger_.arenaBytes();
    stats.peakBytes = peak_;
    return stats;
  }

  int deviceCount() const override { return devices_; }
  int firstLocalDevice() const override { return 0; }
  int localDeviceCount() const override { return devices_; }

  void exchange(std::span<const std::byte> bytes, bool, Exchanged done) override {
    done({}, {std::vector<std::byte>(bytes.begin(), bytes.end())});
  }

 private:
  static int checkedCount(const DeviceOptions& options) {
    if (options.virtualDevices >= 1 && options.virtualDevices <= kMostDevices) return options.virtualDevices;
    throw std::invalid_argument("virtualDevices must be from 1 to " + std::to_string(kMostDevices));
  }

  void check(std::optional<int> device) const {
    if (!device || (*device >= 0 && *device < devices_)) return;
    throw std::invalid_argument("there is no device " + std::to_string(*device) + " among " +
                                std::to_string(devices_));
  }

  void notePeak() { peak_ = std::max(peak_, ledger_.liveBytes() + ledger_.arenaBytes()); }

  static constexpr int kMostDevices = 4096;

  Clock clock_;
  const int devices_, threads_;
  Ledger ledger_;
  std::unordered_map<BufferId, std::vector<std::byte>> uploaded_;  // outputs of runs are zeros
  size_t peak_ = 0;
};

}  // namespace

std::unique_ptr<Device> makeNullDevice(const DeviceOptions& options) {
  if (options.mpi) throw std::invalid_argument("the null device has no mpi: it is every device by itself");
  return std::make_unique<NullDevice>(options);
}

}  // namespace lazuli
