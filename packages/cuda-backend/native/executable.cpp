#include "executable.h"

#include <algorithm>
#include <map>
#include <new>
#include <set>

#include "collectives/bucket.h"
#include "parallel.h"
#include "schedule.h"

namespace lazuli {
namespace {

// Stands for the arena of a program that has none, so that no kernel sees a null pointer.
alignas(kAlignment) std::byte noArena[kAlignment];

}  // namespace

void Executable::FreeAligned::operator()(std::byte* memory) const {
  ::operator delete (memory, std::align_val_t{kAlignment});
}

Executable::Executable(Lowered lowered, std::vector<bool> donated, size_t limitBytes, bool withText)
    : lowered_(std::move(lowered)), donated_(std::move(donated)) {
  verify(lowered_, donated_.size());
  schedule(lowered_, donated_);
  plan_ = planMemory(lowered_, donated_);
  checkLimit(lowered_, plan_, limitBytes);
  uploadConstants();
  makeCalls();
  findJobs();
  makeInfo(withText);
}

void Executable::uploadConstants() {
  size_t bytes = 0;
  for (const auto& [value, data] : lowered_.constants) {
    constantOffsets_.push_back(bytes);
    bytes += alignUp(std::max<size_t>(data.size(), 1));
  }
  constantBytes_ = bytes;
  if (bytes == 0) return;
  constants_.reset(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment})));
  for (size_t i = 0; i < constantOffsets_.size(); i++) {
    std::vector<uint8_t>& data = lowered_.constants[i].second;
    std::copy(data.begin(), data.end(), reinterpret_cast<uint8_t*>(constants_.get()) + constantOffsets_[i]);
    data = {};
  }
}

Executable::Address Executable::addressOf(ValueId value) const {
  const Storage& storage = plan_.storage.storage(value);
  uint32_t inputs = static_cast<uint32_t>(inputCount()), outputs = static_cast<uint32_t>(outputCount());
  switch (storage.home) {
    case Storage::Home::input:
      return {1 + storage.index, 0};
    case Storage::Home::output:
      return {1 + inputs + storage.index, 0};
    case Storage::Home::constant:
      return {1 + inputs + outputs, constantOffsets_[storage.index]};
    default:
      return {0, plan_.offsets[plan_.storage.of[value]]};
  }
}

void Executable::makeCalls() {
  for (size_t s = 0; s < lowered_.steps.size(); s++) {
    Call call;
    for (ValueId v : lowered_.steps[s].reads) call.reads.push_back(addressOf(v));
    for (ValueId v : lowered_.steps[s].writes) call.writes.push_back(addressOf(v));
    call.scratch = {0, plan_.scratchOffsets[s]};
    mostReads_ = std::max(mostReads_, call.reads.size());
    mostWrites_ = std::max(mostWrites_, call.writes.size());
    calls_.push_back(std::move(call));
  }
}

void Executable::makeInfo(bool withText) {
  info_.arenaBytes = plan_.arenaBytes;
  info_.lowerBoundBytes = plan_.lowerBoundBytes;
  info_.constantBytes = plan_.constantBytes;
  info_.outputBytes = plan_.outputBytes;
  for (const Step& step : lowered_.steps) {
    size_t bytes = 0;
    for (auto read = step.reads.begin(); read != step.reads.end(); ++read) {
      if (std::find(step.reads.begin(), read, *read) == read) bytes += lowered_.values[*read].bytes();
    }
    for (ValueId v : step.writes) bytes += lowered_.values[v].bytes();
    // The times of a start and a wait are not those of what is moved.
    const bool isWhole = step.transfer == Transfer::none;
    info_.kernels.push_back({step.made.label, step.node, isWhole ? bytes : 0, isWhole ? step.made.flops : 0,
                             step.made.scratchBytes});
  }
  std::set<const Kernel*> distinct;
  for (const Step& step : lowered_.steps) distinct.insert(step.made.kernel.get());
  info_.distinctKernels = distinct.size();
  if (withText) info_.text = describe(lowered_, plan_);
}

/// Starts that follow each other with one bucket, and no wait or other collective between, are one job.
void Executable::findJobs() {
  std::map<ValueId, int64_t> jobOf;
  int64_t jobs = 0, bucket = -1;
  Call* last = nullptr;  // start, where the next one may join it
  for (size_t s = 0; s < calls_.size(); s++) {
    const Step& step = lowered_.steps[s];
    Call& call = calls_[s];
    if (step.transfer == Transfer::start) {
      if (last && bucket >= 0 && step.bucket == bucket)
        last->endsJob = false;
      else
        jobs++;
      call.job = jobOf[step.writes[0]] = jobs - 1;
      call.endsJob = true;
      last = &call;
      bucket = step.bucket;
    } else if (step.isOrdered()) {
      last = nullptr;
      if (step.transfer != Transfer::done) continue;
      const auto job = jobOf.find(step.reads[0]);  // none where nothing had to be moved
      if (job != jobOf.end()) call.job = job->second;
    }
  }
}

void Executable::call(size_t s, Frame& frame) const {
  const Call& call = calls_[s];
  const Step& step = lowered_.steps[s];
  for (size_t i = 0; i < call.reads.size(); i++) frame.reads[i] = frame.resolve(call.reads[i]);
  for (size_t i = 0; i < call.writes.size(); i++) frame.writes[i] = frame.resolve(call.writes[i]);
  const KernelArgs args{frame.reads.data(), frame.writes.data(), frame.resolve(call.scratch),
                        frame.communicator};
  if (!frame.queue || !step.isOrdered()) return runKernel(s, args);
  if (step.transfer == Transfer::start) return start(s, frame);
  if (step.transfer == Transfer::none) return frame.queue->run([&](Communicator&) { runKernel(s, args); });
  if (call.job >= 0) frame.queue->wait(frame.jobs[static_cast<size_t>(call.job)]);
  runKernel(s, args);
}

void Executable::start(size_t s, Frame& frame) const {
  const Call& call = calls_[s];
  frame.started.push_back(
      {s,
       {frame.reads.begin(), frame.reads.begin() + static_cast<ptrdiff_t>(call.reads.size())},
       {frame.writes.begin(), frame.writes.begin() + static_cast<ptrdiff_t>(call.writes.size())}});
  if (!call.endsJob) return;
  frame.jobs.push_back(
      frame.queue->start([this, started = std::move(frame.started)](Communicator& communicator) {
        if (started.size() == 1)
          return runKernel(started[0].step,
                           {started[0].reads.data(), started[0].writes.data(), nullptr, &communicator});
        Bucket bucket(communicator);
        for (const Started& each : started)
          runKernel(each.step, {each.reads.data(), each.writes.data(), nullptr, &bucket});
        try {
          bucket.move();
        } catch (const CollectiveError& error) {
          throw CollectiveError(error.what(), lowered_.steps[started[bucket.reached()].step].node);
        }
      }));
  frame.started.clear();
}

void Executable::runKernel(size_t s, const KernelArgs& args) const {
  const Step& step = lowered_.steps[s];
  try {
    step.made.kernel->run(args);
  } catch (const OutOfMemoryError&) {
    throw;
  } catch (const CollectiveError& error) {
    throw CollectiveError(error.what(), step.node);
  } catch (const ProgramError& error) {
    throw ProgramError(error.what(), error.node >= 0 ? error.node : step.node);
  } catch (const std::bad_alloc&) {
    throw OutOfMemoryError("out of memory in " + step.made.label, step.node);
  } catch (const std::exception& error) {
    throw ProgramError(step.made.label + ": " + error.what(), step.node);
  }
}

std::vector<std::byte*> Executable::basesOf(const Memory& memory) const {
  std::vector<std::byte*> bases{memory.arena ? memory.arena : noArena};
  bases.reserve(2 + inputCount() + outputCount());
  bases.insert(bases.end(), memory.inputs.begin(), memory.inputs.end());
  bases.insert(bases.end(), memory.outputs.begin(), memory.outputs.end());
  bases.push_back(memory.constants ? const_cast<std::byte*>(memory.constants) : constants_.get());
  return bases;
}

std::vector<Executable::Operands> Executable::bind(const Memory& memory) const {
  const std::vector<std::byte*> bases = basesOf(memory);
  const auto resolve = [&](Address address) { return bases[address.base] + address.offset; };
  std::vector<Operands> all;
  all.reserve(calls_.size());
  for (const Call& call : calls_) {
    Operands operands{{}, {}, resolve(call.scratch)};
    for (Address read : call.reads) operands.reads.push_back(resolve(read));
    for (Address write : call.writes) operands.writes.push_back(resolve(write));
    all.push_back(std::move(operands));
  }
  return all;
}

std::vector<Executable::Copy> Executable::copies(const Memory& memory) const {
  const std::vector<std::byte*> bases = basesOf(memory);
  std::vector<Copy> all;
  for (const auto& copy : plan_.storage.copies) {
    const Address from = addressOf(copy.from);
    all.push_back(
        {memory.outputs[copy.output], bases[from.base] + from.offset, lowered_.values[copy.from].bytes()});
  }
  return all;
}

void Executable::run(const Memory& memory, const Clock& clock, std::vector<KernelTime>* times,
                     const std::atomic<bool>& stop, Communicator* communicator,
                     CollectiveQueue* queue) const {
  Frame frame{basesOf(memory),
              std::vector<const std::byte*>(mostReads_),
              std::vector<std::byte*>(mostWrites_),
              communicator,
              queue,
              {},
              {}};
  if (times) times->reserve(calls_.size());
  for (size_t s = 0; s < calls_.size(); s++) {
    if (stop.load(std::memory_order_relaxed)) throw ProgramError("the device was closed");
    double start = times ? clock.us() : 0;
    call(s, frame);
    if (times) times->push_back({start, clock.us()});
  }
  for (const Copy& copy : copies(memory)) copyBytes(copy.to, copy.from, copy.bytes);
}

}  // namespace lazuli
