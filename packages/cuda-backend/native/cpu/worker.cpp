#include "cpu/worker.h"

#include <cstring>

#include "run_outcome.h"

namespace lazuli {
CpuWorker::CpuWorker(size_t limitBytes, const Clock& clock, Place place)
    : clock_(clock),
      place_(std::move(place)),
      memory_(limitBytes),
      queue_(place_.communicator ? std::make_unique<CollectiveQueue>(*place_.communicator) : nullptr),
      executor_(place_.threads) {}

void CpuWorker::run(std::shared_ptr<DeviceRun> run) {
  executor_.push([this, run = std::move(run)] { execute(*run); });
}

void CpuWorker::execute(DeviceRun& run) {
  RunResult result;
  // Kept until all devices are done: another may be reading them.
  std::vector<Block> fresh(run.outputs.size());
  result.startUs = clock_.us();
  attempt(run, fresh, result);
  result.endUs = clock_.us();
  if (queue_) endCollectives(run, result);
  if (place_.mesh) agreeOn(*place_.mesh, result);
  for (size_t o = 0; result.error.empty() && o < run.outputs.size(); o++) {
    int64_t input = run.executable->takesOver(o);
    if (input >= 0) fresh[o] = std::move(buffers_.at(run.inputs[static_cast<size_t>(input)]).block);
  }
  // Before the outputs are there: one may bear the number of a donated input.
  for (size_t i = 0; i < run.inputs.size(); i++) {
    if (run.executable->isDonated(i)) buffers_.erase(run.inputs[i]);
  }
  std::shared_ptr<const std::string> error;
  if (!result.error.empty()) error = std::make_shared<const std::string>(result.error);
  for (size_t o = 0; o < run.outputs.size(); o++)
    buffers_[run.outputs[o]] = {error ? Block() : std::move(fresh[o]), error};
  if (place_.device == place_.first) run.tell(std::move(result));
}

void CpuWorker::attempt(const DeviceRun& run, std::vector<Block>& fresh, RunResult& result) {
  const ExecutableInfo& info = run.executable->info();
  const std::string self = place_.communicator ? "device " + std::to_string(place_.device) + ": " : "";
  const std::string shortage = "out of memory: the run needs " + formatBytes(info.outputBytes) +
                               " for outputs and " + formatBytes(info.arenaBytes) + " for intermediates";
  attemptRun(result, self, shortage, [&] { compute(run, fresh, result); });
}

void CpuWorker::compute(const DeviceRun& run, std::vector<Block>& fresh, RunResult& result) {
  const Executable& executable = *run.executable;
  if (executor_.closing()) throw Inherited(kClosed);
  std::vector<std::byte*> in, out;
  for (BufferId id : run.inputs) {
    const Buffer& buffer = buffers_.at(id);
    if (buffer.error) throw Inherited(*buffer.error);
    in.push_back(buffer.block.data());
  }
  for (size_t o = 0; o < run.outputs.size(); o++) {
    int64_t input = executable.takesOver(o);
    if (input < 0) fresh[o] = memory_.take(executable.outputBytes(o));
    out.push_back(input < 0 ? fresh[o].data() : in[static_cast<size_t>(input)]);
  }
  std::byte* arena = memory_.arena(executable.info().arenaBytes);
  executable.run({in, out, arena}, clock_, run.profile ? &result.kernels : nullptr, executor_.closing(),
                 place_.communicator.get(), queue_.get());
}

/// Tells a failure at once, for those who wait for one that does not come, and what waits for them here; then
/// sees that nothing is under way in the run's memory.
void CpuWorker::endCollectives(DeviceRun& run, RunResult& result) {
  const bool failed = !result.error.empty();
  if (failed && place_.mesh) {
    if (tellMesh(*place_.mesh, result)) run.tell(result);
  } else if (failed) {
    place_.communicator->interrupt();
  }
  queue_->end();
  if (failed && !place_.mesh && !result.collective) place_.communicator->fail(result.error);
}

/// An upload's bytes lie in the buffer's own memory from the start.
struct CpuWorker::Arrived final : Incoming {
  explicit Arrived(Block taken) : block(std::move(taken)) {}
  std::byte* data() const override { return block.data(); }
  Block block;
};

std::shared_ptr<Incoming> CpuWorker::take(size_t bytes) {
  return std::make_shared<Arrived>(memory_.take(bytes));
}

void CpuWorker::upload(BufferId id, std::shared_ptr<Incoming> bytes, std::function<void(std::byte*)> fill) {
  executor_.push([this, id, bytes = std::static_pointer_cast<Arrived>(bytes), fill = std::move(fill)] {
    if (fill) fill(bytes->data());
    buffers_[id] = {std::move(bytes->block), nullptr};
  });
}

void CpuWorker::download(BufferId id, std::span<std::byte> target,
                         std::function<void(std::string error)> done) {
  executor_.push([this, id, target, done = std::move(done)] { done(read(id, target)); });
}

std::string CpuWorker::read(BufferId id, std::span<std::byte> target) {
  if (executor_.closing()) return kClosed;
  const Buffer& buffer = buffers_.at(id);
  if (buffer.error) return *buffer.error;
  if (!target.empty()) std::memcpy(target.data(), buffer.block.data(), target.size());
  return "";
}

void CpuWorker::free(std::vector<BufferId> ids) {
  executor_.push([this, ids = std::move(ids)] {
    for (BufferId id : ids) buffers_.erase(id);
  });
}

void CpuWorker::trimArena(std::shared_ptr<const Executable> last, size_t bytes) {
  executor_.push([this, last = std::move(last), bytes] { memory_.trimArena(bytes); });
}

}  // namespace lazuli
