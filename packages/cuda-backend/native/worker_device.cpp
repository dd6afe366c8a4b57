#include "worker_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "parallel.h"

namespace lazuli {
namespace {

constexpr int kMostDevices = 256;  // each is a thread, and memory

std::string text(BufferId id) { return "buffer " + std::to_string(id); }

std::chrono::milliseconds timeoutOf(const DeviceOptions& options) {
  const char* text = std::getenv("LAZULI_COLLECTIVE_TIMEOUT_MS");
  const double given = text ? std::atof(text) : 0;
  // A day is for ever, and does not overflow the clock.
  return std::chrono::milliseconds(
      static_cast<int64_t>(std::clamp(given > 0 ? given : options.collectiveTimeoutMs, 1.0, 86400000.0)));
}

int checkedCount(const DeviceOptions& options) {
  if (options.virtualDevices >= 1 && options.virtualDevices <= kMostDevices) return options.virtualDevices;
  throw std::invalid_argument("virtualDevices must be from 1 to " + std::to_string(kMostDevices));
}

/// Threads for each of so many devices; 0: all.
int shareOf(int devices) { return devices == 1 ? 0 : std::max(1, threadCount() / devices); }

/// Ranks that were bound to processors of their own keep those; where they were not they share the host's.
int threadsOf(const MpiJob& job) {
  const bool isBound = threadCount() < static_cast<int>(std::thread::hardware_concurrency());
  return isBound ? 0 : shareOf(job.ranksOfThisHost());
}

}  // namespace

MpiJob* WorkerDevice::jobOf(const DeviceOptions& options) {
  if (options.mpi && options.virtualDevices != 1)
    throw std::invalid_argument("with mpi each process has one device: no virtualDevices");
  return options.mpi ? &MpiJob::open(timeoutOf(options).count()) : nullptr;
}

WorkerDevice::WorkerDevice(const DeviceOptions& options, Ledger::Lower lower, MpiJob* job)
    : deviceCount_(job ? job->size() : checkedCount(options)),
      first_(job ? job->rank() : 0),
      timeout_(timeoutOf(options)),
      threads_(job ? threadsOf(*job) : shareOf(options.virtualDevices)),
      ledger_(options, std::move(lower), deviceCount_) {
  if (job) mpi_ = std::make_shared<MpiCommunicator>(*job, timeout_);
  if (options.virtualDevices > 1) mesh_ = std::make_unique<LocalMesh>(options.virtualDevices, timeout_);
}

WorkerDevice::~WorkerDevice() {
  // All at once: each one's runs end only with the others'.
  for (const auto& worker : workers_) worker->beginClosing();
  if (mesh_) mesh_->close();
}

ExecutableId WorkerDevice::compile(std::span<const uint32_t> words, bool withText) {
  ThreadCountScope planned(threads_);
  return ledger_.compile(words, withText);
}

const ExecutableInfo& WorkerDevice::info(ExecutableId executable) const {
  return ledger_.executable(executable)->info();
}

void WorkerDevice::release(ExecutableId executable) {
  // Destroyed behind the runs that are on their way, which hold it too.
  std::shared_ptr<const Executable> last = ledger_.executable(executable);
  ledger_.release(executable);
  for (const auto& worker : workers_) worker->trimArena(last, ledger_.arenaBytes());
}

void WorkerDevice::run(ExecutableId id, std::span<const BufferId> inputs, std::span<const BufferId> outputs,
                       bool profile, std::function<void(RunResult)> done) {
  auto run = std::make_shared<DeviceRun>();
  run->executable = ledger_.executable(id);
  run->inputs.assign(inputs.begin(), inputs.end());
  run->outputs.assign(outputs.begin(), outputs.end());
  run->profile = profile;
  run->done = std::move(done);
  checkWhole(inputs);
  ledger_.admitRun(*run->executable, inputs, outputs);
  for (const auto& worker : workers_) worker->run(run);
}

size_t WorkerDevice::place(int device) const {
  if (device >= first_ && device - first_ < localDeviceCount()) return static_cast<size_t>(device - first_);
  if (device >= 0 && device < deviceCount_)
    throw std::invalid_argument("device " + std::to_string(device) + " is another process's");
  throw std::invalid_argument("there is no device " + std::to_string(device) + " among " +
                              std::to_string(deviceCount_));
}

/// Refuses buffers that some devices have not got yet.
void WorkerDevice::checkWhole(std::span<const BufferId> buffers) const {
  if (uploading_.empty()) return;
  for (BufferId id : buffers) {
    auto found = uploading_.find(id);
    if (found == uploading_.end()) continue;
    const auto device = std::find(found->second.begin(), found->second.end(), false) - found->second.begin();
    throw std::invalid_argument(text(id) + " was not uploaded to device " + std::to_string(device));
  }
}

void WorkerDevice::upload(BufferId id, std::span<const std::byte> bytes, std::optional<int> device) {
  if (device && workers_.size() > 1) return uploadOne(id, bytes, place(*device));
  if (device) place(*device);
  uploadAll(id, bytes);
}

void WorkerDevice::uploadAll(BufferId id, std::span<const std::byte> bytes) {
  ledger_.admitUpload(id, bytes.size());
  // Shared, because a std::function must be copyable.
  std::vector<std::shared_ptr<Incoming>> blocks;
  std::shared_ptr<std::byte[]> staged;
  try {
    for (const auto& worker : workers_) blocks.push_back(worker->take(bytes.size()));
    if (workers_.size() > 1) staged = std::make_shared_for_overwrite<std::byte[]>(bytes.size());
  } catch (const std::bad_alloc&) {
    ledger_.admitFree(std::span(&id, 1));
    throw OutOfMemoryError("out of memory: an upload of " + formatBytes(bytes.size()));
  }
  // Copied once here, and by several devices on their own threads.
  if (!bytes.empty()) std::memcpy(staged ? staged.get() : blocks[0]->data(), bytes.data(), bytes.size());
  for (size_t w = 0; w < workers_.size(); w++) {
    std::function<void(std::byte*)> fill;
    if (staged) fill = [staged, size = bytes.size()](std::byte* to) { std::memcpy(to, staged.get(), size); };
    workers_[w]->upload(id, std::move(blocks[w]), std::move(fill));
  }
}

void WorkerDevice::uploadOne(BufferId id, std::span<const std::byte> bytes, size_t worker) {
  auto found = uploading_.find(id);
  const bool isFirst = found == uploading_.end();
  if (isFirst) {
    ledger_.admitUpload(id, bytes.size());
    found = uploading_.emplace(id, std::vector<bool>(workers_.size())).first;
  } else if (found->second[worker]) {
    throw std::invalid_argument(text(id) + " exists already on device " + std::to_string(worker));
  } else if (ledger_.bytes(id) != bytes.size()) {
    throw std::invalid_argument(text(id) + " has " + std::to_string(ledger_.bytes(id)) +
                                " bytes on other devices, not " + std::to_string(bytes.size()));
  }
  std::shared_ptr<Incoming> block;
  try {
    block = workers_[worker]->take(bytes.size());
  } catch (const std::bad_alloc&) {
    if (isFirst) {
      uploading_.erase(found);
      ledger_.admitFree(std::span(&id, 1));
    }
    throw OutOfMemoryError("out of memory: an upload of " + formatBytes(bytes.size()));
  }
  if (!bytes.empty()) std::memcpy(block->data(), bytes.data(), bytes.size());
  workers_[worker]->upload(id, std::move(block), nullptr);
  found->second[worker] = true;
  if (std::find(found->second.begin(), found->second.end(), false) == found->second.end())
    uploading_.erase(found);
}

void WorkerDevice::download(BufferId id, std::span<std::byte> target,
                            std::function<void(std::string error)> done, std::optional<int> device) {
  const size_t worker = place(device.value_or(first_));
  if (ledger_.bytes(id) != target.size()) {
    throw std::invalid_argument(text(id) + " has " + std::to_string(ledger_.bytes(id)) +
                                " bytes, the target " + std::to_string(target.size()));
  }
  auto found = uploading_.find(id);
  if (found != uploading_.end() && !found->second[worker])
    throw std::invalid_argument(text(id) + " was not uploaded to device " + std::to_string(worker));
  workers_[worker]->download(id, target, std::move(done));
}

size_t WorkerDevice::bufferBytes(BufferId buffer) const { return ledger_.bytes(buffer); }

void WorkerDevice::free(std::span<const BufferId> buffers) {
  ledger_.admitFree(buffers);
  for (BufferId id : buffers) uploading_.erase(id);
  for (const auto& worker : workers_) worker->free({buffers.begin(), buffers.end()});
}

DeviceStats WorkerDevice::stats(std::optional<int> device) const {
  DeviceStats stats = workers_[place(device.value_or(first_))]->stats();
  for (size_t w = 1; !device && w < workers_.size(); w++) {
    DeviceStats other = workers_[w]->stats();
    if (other.peakBytes > stats.peakBytes) stats = other;
  }
  stats.liveBytes = ledger_.liveBytes();
  return stats;
}

void WorkerDevice::exchange(std::span<const std::byte> bytes, bool mustAgree, Exchanged done) {
  workers_[0]->push(
      [mpi = mpi_, mustAgree, done = std::move(done), own = std::vector(bytes.begin(), bytes.end())] {
        RunResult result;
        try {
          if (!mpi) return done({}, {own});
          auto all = mpi->gather(own);
          if (mustAgree && std::any_of(all.begin(), all.end(), [&](const auto& each) { return each != own; }))
            mpi->refuse("the ranks are to run different programs");
          return done({}, std::move(all));
        } catch (const std::exception& error) {
          result.error = error.what();
          result.collective = true;
        }
        done(std::move(result), {});
      });
}

}  // namespace lazuli
