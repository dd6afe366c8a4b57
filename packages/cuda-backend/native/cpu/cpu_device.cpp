#include "cpu/cpu_device.h"

#include <cstring>

namespace lazuli {
namespace {

constexpr const char* kClosed = "the device was closed";

}  // namespace

CpuDevice::CpuDevice(const DeviceOptions& options, Ledger::Lower lower)
    : ledger_(options, lower), memory_(options.memoryLimitBytes) {}

ExecutableId CpuDevice::compile(std::span<const uint32_t> words, bool withText) {
  return ledger_.compile(words, withText);
}

const ExecutableInfo& CpuDevice::info(ExecutableId executable) const {
  return ledger_.executable(executable)->info();
}

void CpuDevice::release(ExecutableId executable) {
  // Destroyed behind the runs that are on their way, which hold it too.
  std::shared_ptr<Executable> last = ledger_.executable(executable);
  ledger_.release(executable);
  executor_.push([this, last = std::move(last), arena = ledger_.arenaBytes()] { memory_.trimArena(arena); });
}

void CpuDevice::run(ExecutableId id, std::span<const BufferId> inputs, std::span<const BufferId> outputs,
                    bool profile, std::function<void(RunResult)> done) {
  std::shared_ptr<Executable> executable = ledger_.executable(id);
  std::function<void()> job = [this, executable, profile, done = std::move(done),
                               in = Ids(inputs.begin(), inputs.end()),
                               out = Ids(outputs.begin(), outputs.end())] {
    RunResult result;
    execute(*executable, in, out, profile, result);
    done(std::move(result));
  };
  ledger_.admitRun(*executable, inputs, outputs);
  executor_.push(std::move(job));
}

void CpuDevice::execute(Executable& executable, const Ids& inputs, const Ids& outputs, bool profile,
                        RunResult& result) {
  result.startUs = clock_.us();
  try {
    compute(executable, inputs, outputs, profile, result);
  } catch (const OutOfMemoryError& error) {
    result.error = error.what();
    result.errorNode = error.node;
    result.outOfMemory = true;
  } catch (const ProgramError& error) {
    result.error = error.what();
    result.errorNode = error.node;
  } catch (const std::bad_alloc&) {
    result.error = "out of memory: the run needs " + formatBytes(executable.info().outputBytes) +
                   " for outputs and " + formatBytes(executable.info().arenaBytes) + " for intermediates";
    result.outOfMemory = true;
  } catch (const std::exception& error) {
    result.error = error.what();
  }
  if (!result.error.empty()) {
    auto error = std::make_shared<const std::string>(result.error);
    for (BufferId id : outputs) buffers_[id] = {Block(), error};
  }
  for (size_t i = 0; i < inputs.size(); i++) {
    if (executable.isDonated(i)) buffers_.erase(inputs[i]);
  }
  result.endUs = clock_.us();
}

void CpuDevice::compute(Executable& executable, const Ids& inputs, const Ids& outputs, bool profile,
                        RunResult& result) {
  if (executor_.closing()) throw ProgramError(kClosed);
  std::vector<std::byte*> in, out;
  for (BufferId id : inputs) {
    const Buffer& buffer = buffers_.at(id);
    if (buffer.error) throw ProgramError(*buffer.error);
    in.push_back(buffer.block.data());
  }
  std::vector<Block> fresh(outputs.size());
  for (size_t o = 0; o < outputs.size(); o++) {
    int64_t input = executable.takesOver(o);
    if (input < 0) fresh[o] = memory_.take(executable.outputBytes(o));
    out.push_back(input < 0 ? fresh[o].data() : in[static_cast<size_t>(input)]);
  }
  std::byte* arena = memory_.arena(executable.info().arenaBytes);
  executable.run({in, out, arena}, clock_, profile ? &result.kernels : nullptr, executor_.closing());
  for (size_t o = 0; o < outputs.size(); o++) {
    int64_t input = executable.takesOver(o);
    if (input >= 0) fresh[o] = std::move(buffers_.at(inputs[static_cast<size_t>(input)]).block);
    buffers_[outputs[o]] = {std::move(fresh[o]), nullptr};
  }
}

void CpuDevice::upload(BufferId id, std::span<const std::byte> bytes) {
  ledger_.admitUpload(id, bytes.size());
  // Shared, because a std::function must be copyable.
  auto block = std::make_shared<Block>();
  try {
    *block = memory_.take(bytes.size());
  } catch (const std::bad_alloc&) {
    ledger_.admitFree(std::span(&id, 1));
    throw OutOfMemoryError("out of memory: an upload of " + formatBytes(bytes.size()));
  }
  if (!bytes.empty()) std::memcpy(block->data(), bytes.data(), bytes.size());
  executor_.push([this, id, block] { buffers_[id] = {std::move(*block), nullptr}; });
}

void CpuDevice::download(BufferId id, std::span<std::byte> target,
                         std::function<void(std::string error)> done) {
  if (ledger_.bytes(id) != target.size()) {
    throw std::invalid_argument("buffer " + std::to_string(id) + " has " + std::to_string(ledger_.bytes(id)) +
                                " bytes, the target " + std::to_string(target.size()));
  }
  executor_.push([this, id, target, done = std::move(done)] { done(read(id, target)); });
}

std::string CpuDevice::read(BufferId id, std::span<std::byte> target) {
  if (executor_.closing()) return kClosed;
  const Buffer& buffer = buffers_.at(id);
  if (buffer.error) return *buffer.error;
  if (!target.empty()) std::memcpy(target.data(), buffer.block.data(), target.size());
  return "";
}

size_t CpuDevice::bufferBytes(BufferId buffer) const { return ledger_.bytes(buffer); }

void CpuDevice::free(std::span<const BufferId> buffers) {
  ledger_.admitFree(buffers);
  executor_.push([this, ids = Ids(buffers.begin(), buffers.end())] {
    for (BufferId id : ids) buffers_.erase(id);
  });
}

DeviceStats CpuDevice::stats() const {
  DeviceStats stats = memory_.stats();
  stats.liveBytes = ledger_.liveBytes();
  return stats;
}

std::unique_ptr<Device> makeCpuDevice(const DeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace lazuli
