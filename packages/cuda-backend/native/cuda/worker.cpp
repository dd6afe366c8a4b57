#include "cuda/worker.h"

#include <cstring>

#include "run_outcome.h"

namespace lazuli::cuda {
namespace {

// Runs that are put on the stream before the first of them is done: enough to keep the GPU busy, few enough
// that what they hold stays small.
constexpr size_t kMostFlights = 3;

CUdeviceptr address(const std::byte* memory) { return reinterpret_cast<CUdeviceptr>(memory); }

}  // namespace

struct CudaWorker::Staged final : Incoming {
  explicit Staged(Block taken, size_t bytes) : block(std::move(taken)), bytes(bytes) {}
  std::byte* data() const override { return block.data(); }
  Block block;
  size_t bytes;
};

struct CudaWorker::Flight {
  explicit Flight(std::shared_ptr<DeviceRun> run) : run(std::move(run)) {}
  std::shared_ptr<DeviceRun> run;
  RunResult result;
  std::vector<Block> fresh;
  std::shared_ptr<Outcome> outcome = std::make_shared<Outcome>();
  std::vector<std::shared_ptr<const Outcome>> inherited;  // of the inputs
  std::vector<EventHandle> marks;
  const Fault* fault = nullptr;
};

CudaWorker::CudaWorker(const Gpu& gpu, size_t limitBytes, const Clock& clock, Place place)
    : gpu_(gpu),
      clock_(clock),
      place_(std::move(place)),
      waits_(place_.mesh || (place_.communicator && !place_.communicator->isCapturable())),
      memory_(limitBytes, gpuMemory()),
      staging_(0, pinnedMemory()) {
  gpu_.makeCurrent();
  streamHandle_ = makeStream();
  fault_ = memory_.take(sizeof(Fault));
  faultCopies_ = staging_.take((kMostFlights + 1) * sizeof(Fault));
  stream_ =
      std::make_unique<Stream>(streamHandle_.get(), gpu_.target(), reinterpret_cast<Fault*>(fault_.data()));
  stream_->zero(fault_.data(), sizeof(Fault));
  completions_ = std::make_unique<Completions>(gpu_, streamHandle_.get(), kMostFlights);
  if (place_.communicator && !waits_) {
    completions_->setCheck(
        [communicator = place_.communicator](double seconds) { return communicator->trouble(seconds); });
  }
  executor_.push([this] { gpu_.makeCurrent(); });
}

CudaWorker::~CudaWorker() {
  // Nothing on the executor's thread outlives this: its jobs are brief once it is closing.
  executor_.beginClosing();
  executor_.push([this] {
    completions_->drain();
    buffers_.clear();
    programs_.clear();
  });
  gpu_.makeCurrent();
}

void CudaWorker::beginClosing() {
  executor_.beginClosing();
  if (place_.communicator) place_.communicator->close();
}

void CudaWorker::run(std::shared_ptr<DeviceRun> run) {
  executor_.push([this, run = std::move(run)] { execute(run); });
}

void CudaWorker::execute(const std::shared_ptr<DeviceRun>& run) {
  auto flight = std::make_shared<Flight>(run);
  flight->fresh.resize(run->outputs.size());
  flight->result.startUs = clock_.us();
  attempt(*flight);
  flight->result.launchedUs = clock_.us();
  land(flight);
}

/// The buffers of a run that is on the stream or has failed: what comes after it on the stream may use them.
/// A run beside others of a mesh is waited for, because they must agree.
void CudaWorker::land(const std::shared_ptr<Flight>& flight) {
  DeviceRun& run = *flight->run;
  if (waits_) {
    completions_->drain();
    std::string error;
    try {
      LAZULI_CUDA(cuStreamSynchronize, streamHandle_.get());
    } catch (const CudaError& failure) {
      error = failure.what();
    }
    finish(*flight, error);
  }
  const bool failed = !flight->result.error.empty();
  for (size_t o = 0; !failed && o < run.outputs.size(); o++) {
    const int64_t input = run.executable->takesOver(o);
    if (input >= 0) flight->fresh[o] = std::move(buffers_.at(run.inputs[static_cast<size_t>(input)]).block);
  }
  // Before the outputs are there: one may bear the number of a donated input.
  for (size_t i = 0; i < run.inputs.size(); i++) {
    if (run.executable->isDonated(i)) buffers_.erase(run.inputs[i]);
  }
  for (size_t o = 0; o < run.outputs.size(); o++) {
    buffers_[run.outputs[o]] = {failed ? Block() : std::move(flight->fresh[o]), flight->outcome};
  }
  if (failed) flight->outcome->error = flight->result.error;
  if (waits_) {
    if (place_.device == place_.first) run.tell(std::move(flight->result));
    return;
  }
  completions_->add([this, flight](const std::string& error) {
    finish(*flight, error);
    flight->run->tell(std::move(flight->result));
  });
}

void CudaWorker::attempt(Flight& flight) {
  const ExecutableInfo& info = flight.run->executable->info();
  const std::string self = place_.communicator ? "device " + std::to_string(place_.device) + ": " : "";
  const std::string shortage = "out of memory on " + gpu_.name() + ": the run needs " +
                               formatBytes(info.outputBytes) + " for outputs and " +
                               formatBytes(info.arenaBytes) + " for intermediates";
  attemptRun(flight.result, self, shortage, [&] { compute(flight); });
}

DeviceProgram& CudaWorker::programOf(const Executable& executable) {
  std::unique_ptr<DeviceProgram>& program = programs_[&executable];
  if (!program) program = std::make_unique<DeviceProgram>(executable);
  return *program;
}

void CudaWorker::compute(Flight& flight) {
  const DeviceRun& run = *flight.run;
  const Executable& executable = *run.executable;
  if (executor_.closing()) throw Inherited(kClosed);
  std::vector<std::byte*> in, out;
  for (BufferId id : run.inputs) {
    const Buffer& buffer = buffers_.at(id);
    if (!buffer.block.data()) throw Inherited(buffer.outcome->error);
    if (buffer.outcome) flight.inherited.push_back(buffer.outcome);
    in.push_back(buffer.block.data());
  }
  for (size_t o = 0; o < run.outputs.size(); o++) {
    const int64_t input = executable.takesOver(o);
    if (input < 0) flight.fresh[o] = memory_.take(executable.outputBytes(o));
    out.push_back(input < 0 ? flight.fresh[o].data() : in[static_cast<size_t>(input)]);
  }
  std::byte* arena = memory_.arena(std::max<size_t>(executable.info().arenaBytes, kAlignment));
  DeviceProgram& program = programOf(executable);
  program.run({in, out, arena}, *stream_, place_.communicator.get(), run.profile ? &flight.marks : nullptr);
  auto* copies = reinterpret_cast<Fault*>(faultCopies_.data());
  Fault* copy = copies + nextCopy_++ % (kMostFlights + 1);
  LAZULI_CUDA(cuMemcpyDtoHAsync, copy, address(fault_.data()), sizeof(Fault), streamHandle_.get());
  stream_->zero(fault_.data(), sizeof(Fault));
  flight.fault = copy;
}

/// The run's outcome, when the GPU is done with it.
void CudaWorker::finish(Flight& flight, const std::string& error) {
  RunResult& result = flight.result;
  const Executable& executable = *flight.run->executable;
  const std::string self = place_.communicator ? "device " + std::to_string(place_.device) + ": " : "";
  // Collectives that were given up end what was on the stream behind them, with nothing of use in it.
  if (const std::string why = place_.communicator ? place_.communicator->failure() : "";
      result.error.empty() && !why.empty()) {
    result.error = self + why;
    result.collective = true;
  }
  if (result.error.empty()) result.error = error;
  for (const auto& outcome : flight.inherited) {
    if (result.error.empty()) result.error = outcome->error;
  }
  if (result.error.empty() && flight.fault && flight.fault->set != 0) {
    const Step& step = executable.step(flight.fault->step);
    result.error = self + step.made.kernel->faultText(*flight.fault);
    result.errorNode = step.node;
  }
  result.endUs = clock_.us();
  if (error.empty() && !flight.marks.empty()) {
    // The GPU's clock is another one: its end is taken for the end that was seen here.
    const auto since = [&](size_t mark) {
      float milliseconds = 0;
      LAZULI_CUDA(cuEventElapsedTime, &milliseconds, flight.marks[mark].get(), flight.marks.back().get());
      return result.endUs - 1000.0 * static_cast<double>(milliseconds);
    };
    for (size_t s = 0; s + 1 < flight.marks.size(); s++) result.kernels.push_back({since(s), since(s + 1)});
  }
  if (place_.mesh) {
    if (!result.error.empty() && tellMesh(*place_.mesh, result)) flight.run->tell(result);
    agreeOn(*place_.mesh, result);
  } else if (place_.communicator && !result.error.empty() && !result.collective) {
    place_.communicator->fail(result.error);
  }
  if (flight.outcome->error.empty()) flight.outcome->error = result.error;
}

std::shared_ptr<Incoming> CudaWorker::take(size_t bytes) {
  gpu_.makeCurrent();
  return std::make_shared<Staged>(staging_.take(bytes), bytes);
}

void CudaWorker::upload(BufferId id, std::shared_ptr<Incoming> bytes, std::function<void(std::byte*)> fill) {
  executor_.push(
      [this, id, bytes = std::static_pointer_cast<Staged>(bytes), fill = std::move(fill)]() mutable {
        if (fill) fill(bytes->data());
        auto outcome = std::make_shared<Outcome>();
        Block block;
        try {
          if (executor_.closing()) throw Inherited(kClosed);
          block = memory_.take(bytes->bytes);
          if (bytes->bytes > 0) {
            LAZULI_CUDA(cuMemcpyHtoDAsync, address(block.data()), bytes->data(), bytes->bytes,
                        streamHandle_.get());
          }
        } catch (const std::bad_alloc&) {
          outcome->error = "out of memory on " + gpu_.name() + ": an upload of " + formatBytes(bytes->bytes);
          block = Block();
        } catch (const std::exception& error) {
          outcome->error = error.what();
          block = Block();
        }
        buffers_[id] = {std::move(block), std::move(outcome)};
        // The staging memory is the copy's until that is done.
        completions_->add([bytes = std::move(bytes)](const std::string&) {});
      });
}

void CudaWorker::download(BufferId id, std::span<std::byte> target,
                          std::function<void(std::string error)> done) {
  executor_.push([this, id, target, done = std::move(done)] {
    if (executor_.closing()) return done(kClosed);
    const Buffer& buffer = buffers_.at(id);
    if (!buffer.block.data()) return done(buffer.outcome->error);
    auto staged = std::make_shared<Block>();
    try {
      *staged = staging_.take(target.size());
      if (!target.empty()) {
        LAZULI_CUDA(cuMemcpyDtoHAsync, staged->data(), address(buffer.block.data()), target.size(),
                    streamHandle_.get());
      }
    } catch (const std::bad_alloc&) {
      return done("out of pinned host memory: a download of " + formatBytes(target.size()));
    } catch (const std::exception& error) {
      return done(error.what());
    }
    completions_->add([staged, target, done, outcome = buffer.outcome](const std::string& error) {
      if (error.empty() && outcome && !outcome->error.empty()) return done(outcome->error);
      if (error.empty() && !target.empty()) std::memcpy(target.data(), staged->data(), target.size());
      done(error);
    });
  });
}

void CudaWorker::free(std::vector<BufferId> ids) {
  executor_.push([this, ids = std::move(ids)] {
    for (BufferId id : ids) buffers_.erase(id);
  });
}

void CudaWorker::trimArena(std::shared_ptr<const Executable> last, size_t bytes) {
  executor_.push([this, last = std::move(last), bytes] {
    // Its graph and constants may still be in use.
    if (programs_.contains(last.get())) completions_->drain();
    programs_.erase(last.get());
    memory_.trimArena(bytes);
  });
}

}  // namespace lazuli::cuda
