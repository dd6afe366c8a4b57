#pragma once

#include <atomic>
#include <span>

#include "clock.h"
#include "collectives/queue.h"
#include "device.h"
#include "memory_plan.h"

namespace lazuli {

/// A compiled program: its kernels in order, where every value lives, and its constants. Knows nothing of
/// buffer ids.
class Executable {
 public:
  /// Schedules and plans. Throws OutOfMemoryError where the plan needs more than `limitBytes` (0: no limit).
  Executable(Lowered lowered, std::vector<bool> donated, size_t limitBytes, bool withText);

  const ExecutableInfo& info() const { return info_; }
  size_t inputCount() const { return donated_.size(); }
  size_t outputCount() const { return lowered_.outputs.size(); }
  size_t inputBytes(size_t input) const { return lowered_.values[input].bytes(); }
  size_t outputBytes(size_t output) const { return lowered_.values[lowered_.outputs[output]].bytes(); }
  bool isDonated(size_t input) const { return donated_[input]; }
  /// The donated input whose buffer becomes this output's, or -1.
  int64_t takesOver(size_t output) const { return plan_.storage.takesOver[output]; }

  size_t stepCount() const { return lowered_.steps.size(); }
  const Step& step(size_t step) const { return lowered_.steps[step]; }

  /// Memory of one run, every address aligned to 64. An output that takes over an input has that input's
  /// address.
  struct Memory {
    std::span<std::byte* const> inputs;
    std::span<std::byte* const> outputs;
    std::byte* arena;                      // of info().arenaBytes; null where that is 0
    const std::byte* constants = nullptr;  // a copy of constants(); null: those themselves
  };
  /// Runs every kernel; several devices may do so at once. Throws ProgramError, OutOfMemoryError or
  /// CollectiveError with the node. Fills `times` by kernel where that is not null. Gives up between kernels
  /// once `stop` holds. Collectives that are only started go to `queue`, and may still be under way where
  /// this throws: `memory` is needed until queue->end(). Without a queue each is done where it starts.
  void run(const Memory& memory, const Clock& clock, std::vector<KernelTime>* times,
           const std::atomic<bool>& stop, Communicator* communicator = nullptr,
           CollectiveQueue* queue = nullptr) const;

  // For a device that carries the steps out by itself:
  /// The values known at compile time, as they lie.
  std::span<const std::byte> constants() const { return {constants_.get(), constantBytes_}; }
  /// What `memory` means for every step, by step, and for the copies that end a run.
  struct Operands {
    std::vector<const std::byte*> reads;
    std::vector<std::byte*> writes;
    std::byte* scratch;
  };
  std::vector<Operands> bind(const Memory& memory) const;
  struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t bytes;
  };
  std::vector<Copy> copies(const Memory& memory) const;
  /// Of a start, and of the done that waits for it: the number of the job that they belong to, or -1; and
  /// whether this start is the last of its job (Step::bucket).
  struct Job {
    int64_t number;
    bool isLast;
  };
  Job jobOf(size_t step) const { return {calls_[step].job, calls_[step].endsJob}; }
  /// Throws what a step threw as ProgramError, OutOfMemoryError or CollectiveError with the step's node.
  void runKernel(size_t step, const KernelArgs& args) const;

 private:
  /// Where an operand is: an offset into one of a run's blocks (`bases_`).
  struct Address {
    uint32_t base = 0;
    size_t offset = 0;
  };
  struct Call {
    std::vector<Address> reads, writes;
    Address scratch;
    int64_t job = -1;  // of a start and its done: which of the run's jobs of the queue
    bool endsJob = false;
  };
  /// A collective that was started, and its memory.
  struct Started {
    size_t step;
    std::vector<const std::byte*> reads;
    std::vector<std::byte*> writes;
  };
  /// What one run works with.
  struct Frame {
    std::vector<std::byte*> bases;        // arena, inputs, outputs, constants
    std::vector<const std::byte*> reads;  // of one call
    std::vector<std::byte*> writes;
    Communicator* communicator;
    CollectiveQueue* queue;
    std::vector<Started> started;  // waiting for the others of their job
    std::vector<uint64_t> jobs;    // the queue's numbers

    std::byte* resolve(Address address) const { return bases[address.base] + address.offset; }
  };
  Address addressOf(ValueId value) const;
  void uploadConstants();
  void makeCalls();
  void makeInfo(bool withText);
  void findJobs();
  void call(size_t step, Frame& frame) const;
  void start(size_t step, Frame& frame) const;
  std::vector<std::byte*> basesOf(const Memory& memory) const;

  Lowered lowered_;
  std::vector<bool> donated_;
  MemoryPlan plan_;
  ExecutableInfo info_;
  std::vector<Call> calls_;  // by step
  size_t mostReads_ = 0, mostWrites_ = 0;
  struct FreeAligned {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, FreeAligned> constants_;
  size_t constantBytes_ = 0;
  std::vector<size_t> constantOffsets_;
};

}  // namespace lazuli
