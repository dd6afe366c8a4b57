#include <cstring>

#include "ledger.h"

namespace lazuli {
namespace {

/// Does all that the CPU does on the calling thread, and nothing else: no arena, no kernels, no memory for
/// outputs.
class NullDevice final : public Device {
 public:
  explicit NullDevice(const DeviceOptions& options) : ledger_(options, lower) {}

  ExecutableId compile(std::span<const uint32_t> words, bool withText) override {
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

  void upload(BufferId buffer, std::span<const std::byte> bytes) override {
    ledger_.admitUpload(buffer, bytes.size());
    uploaded_[buffer].assign(bytes.begin(), bytes.end());
    notePeak();
  }

  void download(BufferId buffer, std::span<std::byte> target,
                std::function<void(std::string error)> done) override {
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

  DeviceStats stats() const override {
    DeviceStats stats;
    stats.liveBytes = ledger_.liveBytes();
    stats.arenaBytes = ledger_.arenaBytes();
    stats.peakBytes = peak_;
    return stats;
  }

 private:
  void notePeak() { peak_ = std::max(peak_, ledger_.liveBytes() + ledger_.arenaBytes()); }

  Clock clock_;
  Ledger ledger_;
  std::unordered_map<BufferId, std::vector<std::byte>> uploaded_;  // outputs of runs are zeros
  size_t peak_ = 0;
};

}  // namespace

std::unique_ptr<Device> makeNullDevice(const DeviceOptions& options) {
  return std::make_unique<NullDevice>(options);
}

}  // namespace lazuli
