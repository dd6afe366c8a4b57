#include "executable.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "lowered_writer.h"
#include "schedule.h"

namespace lazuli::test {
namespace {

/// A piece of memory aligned as a device's, whose surroundings tell of writes outside.
class Piece {
 public:
  explicit Piece(size_t bytes) : bytes_(bytes), memory_(alignUp(bytes) + 3 * kAlignment, std::byte{0xab}) {}
  std::byte* data() {
    auto address = reinterpret_cast<uintptr_t>(memory_.data()) + kAlignment;
    return reinterpret_cast<std::byte*>(alignUp(address));
  }
  bool isIntact() {
    std::byte* end = memory_.data() + memory_.size();
    return std::all_of(memory_.data(), data(), [](std::byte b) { return b == std::byte{0xab}; }) &&
           std::all_of(data() + bytes_, end, [](std::byte b) { return b == std::byte{0xab}; });
  }

 private:
  size_t bytes_;
  std::vector<std::byte> memory_;
};

const std::atomic<bool> kGoOn{false};

std::byte expected(ValueId value, size_t at) { return static_cast<std::byte>(value * 31 + at * 7 + 1); }

void fill(ValueId value, std::byte* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) data[i] = expected(value, i);
}

bool holds(ValueId value, const std::byte* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if (data[i] != expected(value, i)) return false;
  }
  return true;
}

/// Of kernels that move nothing: only whether the device waits is asked of it.
class NoOthers final : public Communicator {
 public:
  int device() const override { return 0; }
  void exchange(const Meeting&, const std::byte*, std::byte*, const Exchange&) override {}
  void reduceScatter(const Meeting&, const std::byte*, std::byte*, const Exchange&, Reduction) override {}
  void allReduce(const Meeting&, const std::byte*, std::byte*, size_t, Reduction) override {}
  void permute(const Meeting&, const std::byte*, std::byte*, size_t, int64_t,
               std::span<const int64_t>) override {}
};

/// A program of random shape whose kernels check that what they read is what was written, whatever shares
/// memory. With collectives that are only started, which read and write as soon as they can, or not before
/// the device waits for them.
class RandomProgram {
 public:
  enum class Starts : uint8_t { none, early, late };

  explicit RandomProgram(uint32_t seed, Starts starts = Starts::none) : random_(seed), starts_(starts) {
    size_t inputs = 1 + below(5);
    for (size_t i = 0; i < inputs; i++) w_.input(size(), below(2) == 0);
    for (size_t i = 0; i < below(3); i++) {
      std::vector<uint8_t> data(size());
      ValueId v = w_.constant(std::vector<uint8_t>(data.size()));
      for (size_t k = 0; k < data.size(); k++) data[k] = static_cast<uint8_t>(expected(v, k));
      w_.lowered.constants.back().second = data;
    }
    size_t steps = 1 + below(30);
    for (size_t i = 0; i < steps; i++) {
      addStep();
      if (starts_ == Starts::none) continue;
      if (below(3) == 0) addStart();
      while (!started_.empty() && below(4) == 0) addDone();
      if (below(8) == 0) w_.lowered.steps.back().made.communicates = true;
    }
    while (!started_.empty()) addDone();
    size_t outputs = 1 + below(4);
    for (size_t i = 0; i < outputs; i++) w_.output(readable(values()));
  }

  /// The steps that start collectives and wait for them, as they were made or as they are scheduled.
  std::vector<int64_t> transfers(bool scheduled) {
    if (scheduled) schedule(w_.lowered, w_.donated);
    std::vector<int64_t> nodes;
    for (const Step& step : w_.lowered.steps) {
      if (step.transfer != Transfer::none) nodes.push_back(step.node);
    }
    return nodes;
  }

  /// Runs twice, as a step does again and again, and gives what was wrong.
  std::string run() {
    std::vector<bool> donated = w_.donated;
    for (const TensorType& type : w_.lowered.values) sizes_.push_back(type.bytes());
    std::vector<ValueId> outputs = w_.lowered.outputs;
    Executable executable(std::move(w_.lowered), donated, 0, true);
    if (executable.info().arenaBytes < executable.info().lowerBoundBytes) return "an arena below its bound";
    Piece arena(executable.info().arenaBytes);
    Clock clock;
    for (int round = 0; round < 2; round++) {
      std::vector<Piece> inputs, fresh;
      std::vector<std::byte*> in, out;
      for (size_t i = 0; i < donated.size(); i++) inputs.emplace_back(sizes_[i]);
      for (size_t i = 0; i < donated.size(); i++) {
        in.push_back(inputs[i].data());
        fill(static_cast<ValueId>(i), in[i], sizes_[i]);
      }
      for (ValueId v : outputs) fresh.emplace_back(sizes_[v]);
      for (size_t o = 0; o < outputs.size(); o++) {
        int64_t taken = executable.takesOver(o);
        if (taken >= 0 && !donated[static_cast<size_t>(taken)])
          return "an input that is not donated was taken";
        out.push_back(taken >= 0 ? in[static_cast<size_t>(taken)] : fresh[o].data());
      }
      executable.run({in, out, arena.data()}, clock, nullptr, kGoOn, &communicator_, &queue_);
      queue_.end();
      for (size_t o = 0; o < outputs.size(); o++) {
        if (!holds(outputs[o], out[o], sizes_[outputs[o]]))
          return "output " + std::to_string(o) + " is wrong";
        if (!fresh[o].isIntact()) return "a write outside an output";
      }
      for (size_t i = 0; i < donated.size(); i++) {
        if (!donated[i] && !holds(static_cast<ValueId>(i), in[i], sizes_[i]))
          return "an input was overwritten";
        if (!inputs[i].isIntact()) return "a write outside an input";
      }
      if (!arena.isIntact()) return "a write outside the arena";
    }
    return failure_ + (failure_.empty() ? "" : "\n" + executable.info().text);
  }

 private:
  size_t below(size_t limit) { return random_() % limit; }
  /// Few sizes, so that many agree.
  size_t size() {
    const size_t sizes[] = {0, 1, 64, 100, 128, 1000, 4096};
    return sizes[below(std::size(sizes))];
  }
  size_t values() const { return w_.lowered.values.size(); }

  void addStep() {
    std::vector<ValueId> reads, writes;
    LoweredWriter::InPlace inPlace;
    size_t before = values(), readCount = below(4), writeCount = 1 + below(2);
    for (size_t i = 0; i < readCount; i++) {
      // Mostly of late, so that values die.
      reads.push_back(readable(below(4) == 0 ? before : std::min<size_t>(before, 6)));
    }
    for (size_t i = 0; i < writeCount; i++) {
      bool alike = !reads.empty() && below(2) == 0;
      writes.push_back(w_.value(alike ? w_.lowered.values[reads[0]].bytes() : size()));
      for (uint32_t r = 0; r < reads.size(); r++) {
        if (below(2) == 0) inPlace.push_back({static_cast<uint32_t>(i), r});
      }
    }
    size_t scratchBytes = below(4) == 0 ? size() : 0;
    auto body = [this, reads, writes, scratchBytes](const KernelArgs& args) {
      check(reads, writes, scratchBytes, args);
    };
    w_.step(reads, writes, inPlace, body).made.scratchBytes = scratchBytes;
  }

  /// One of the last values, that no collective has yet to bring.
  ValueId readable(size_t window) {
    ValueId value = static_cast<ValueId>(values() - 1 - below(window));
    while (isStarted_[value]) value--;  // inputs are always there
    return value;
  }

  void addStart() {
    const ValueId source = readable(std::min<size_t>(values(), 6));
    const ValueId value = w_.value(below(2) == 0 ? w_.lowered.values[source].bytes() : size());
    LoweredWriter::InPlace inPlace;
    if (below(2) == 0) inPlace.push_back({0, 0});
    Step& step = w_.step({source}, {value}, inPlace, [this, source, value](const KernelArgs& args) {
      while (starts_ == Starts::late && !communicator_.isAwaited()) std::this_thread::yield();
      check({source}, {value}, 0, args);
    });
    step.made.communicates = true;
    step.transfer = Transfer::start;
    step.bucket = static_cast<int64_t>(below(3)) - 1;
    isStarted_[value] = true;
    started_.push_back({source, value});
  }

  void addDone() {
    const size_t which = below(started_.size());
    const auto [source, value] = started_[which];
    started_.erase(started_.begin() + static_cast<ptrdiff_t>(which));
    const ValueId there = w_.value(w_.lowered.values[value].bytes());
    const auto body = [this, value = value, there](const KernelArgs& args) {
      if (args.reads[0] != args.writes[0]) failure_ = "what was started moves at its end";
      if (!holds(value, args.reads[0], sizes_[value])) failure_ = "a collective's value was overwritten";
      fill(there, args.writes[0], sizes_[there]);
    };
    w_.step({value, source}, {there}, {{0, 0}}, body).transfer = Transfer::done;
  }

  void check(const std::vector<ValueId>& reads, const std::vector<ValueId>& writes, size_t scratchBytes,
             const KernelArgs& args) {
    if (scratchBytes > 0) std::memset(args.scratch, 0xcd, scratchBytes);
    for (size_t i = 0; i < reads.size(); i++) {
      if (reinterpret_cast<uintptr_t>(args.reads[i]) % kAlignment != 0) failure_ = "a read is not aligned";
      if (!holds(reads[i], args.reads[i], sizes_[reads[i]])) {
        failure_ = "value " + std::to_string(reads[i]) + " was overwritten before it was read";
      }
    }
    for (size_t i = 0; i < writes.size(); i++) fill(writes[i], args.writes[i], sizes_[writes[i]]);
    for (size_t i = 0; i < writes.size(); i++) {
      if (!holds(writes[i], args.writes[i], sizes_[writes[i]])) failure_ = "two writes share memory";
    }
  }

  std::mt19937 random_;
  const Starts starts_;
  LoweredWriter w_;
  std::map<ValueId, bool> isStarted_;
  std::vector<std::pair<ValueId, ValueId>> started_;  // source and value
  NoOthers communicator_;
  CollectiveQueue queue_{communicator_};
  std::vector<size_t> sizes_;  // by value; the lowering itself goes to the executable
  std::string failure_;
};

TEST(Executable, RandomProgramsReadWhatTheyWrote) {
  for (uint32_t seed = 0; seed < 2000; seed++) ASSERT_EQ(RandomProgram(seed).run(), "") << "seed " << seed;
}

TEST(Executable, WhatACollectiveReadsAndWritesIsItsOwnUntilItIsWaitedFor) {
  for (auto starts : {RandomProgram::Starts::late, RandomProgram::Starts::early}) {
    for (uint32_t seed = 0; seed < 1000; seed++)
      ASSERT_EQ(RandomProgram(seed, starts).run(), "") << "seed " << seed;
  }
}

TEST(Executable, KeepsTheOrderOfStartsAndWaits) {
  for (uint32_t seed = 0; seed < 1000; seed++) {
    RandomProgram program(seed, RandomProgram::Starts::early);
    const std::vector<int64_t> given = program.transfers(false);
    ASSERT_EQ(program.transfers(true), given) << "seed " << seed;
  }
}

TEST(Executable, NamesTheStepThatFailed) {
  auto failing = [](TestKernel::Body body) {
    LoweredWriter w;
    ValueId x = w.input(64), a = w.value(64);
    w.step({x}, {a}, {}, std::move(body)).node = 17;
    w.output(a);
    return Executable(std::move(w.lowered), w.donated, 0, false);
  };
  auto run = [](Executable executable) {
    Piece in(64), out(64);
    std::byte *inputs[] = {in.data()}, *outputs[] = {out.data()};
    executable.run({inputs, outputs, nullptr}, Clock(), nullptr, kGoOn);
  };
  auto caught = [&](TestKernel::Body body) -> std::pair<std::string, int64_t> {
    try {
      run(failing(std::move(body)));
    } catch (const ProgramError& error) {
      return {error.what(), error.node};
    }
    return {"", -1};
  };
  using Caught = std::pair<std::string, int64_t>;
  EXPECT_EQ(caught([](auto&) { throw ProgramError("index 9 is out of range"); }),
            Caught("index 9 is out of range", 17));
  EXPECT_EQ(caught([](auto&) { throw ProgramError("its own node", 3); }), Caught("its own node", 3));
  EXPECT_EQ(caught([](auto&) { throw std::runtime_error("primitive failed"); }),
            Caught("step 0: primitive failed", 17));
  EXPECT_EQ(caught([](auto&) { throw std::bad_alloc(); }), Caught("out of memory in step 0", 17));
  EXPECT_THROW(run(failing([](auto&) { throw std::bad_alloc(); })), OutOfMemoryError);
}

TEST(Executable, ReportsItsKernelsAndTheirTimes) {
  LoweredWriter w;
  ValueId x = w.input(100), a = w.value(50), b = w.value(25);
  w.step({x, x}, {a}).made.flops = 7;
  w.step({a, x}, {b}).made.scratchBytes = 48;
  w.output(b);
  Executable executable(std::move(w.lowered), w.donated, 0, true);
  const ExecutableInfo& info = executable.info();
  ASSERT_EQ(info.kernels.size(), 2u);
  EXPECT_EQ(info.kernels[0].label, "step 0");
  EXPECT_EQ(info.kernels[0].bytes, 150u);
  EXPECT_EQ(info.kernels[0].flops, 7);
  EXPECT_EQ(info.kernels[0].scratchBytes, 0u);
  EXPECT_EQ(info.kernels[1].scratchBytes, 48u);
  EXPECT_EQ(info.kernels[1].node, 1);
  EXPECT_EQ(info.outputBytes, 25u);
  EXPECT_NE(info.text.find("step 1"), std::string::npos);

  Piece in(100), out(25), arena(info.arenaBytes);
  std::byte *inputs[] = {in.data()}, *outputs[] = {out.data()};
  std::vector<KernelTime> times;
  executable.run({inputs, outputs, arena.data()}, Clock(), &times, kGoOn);
  ASSERT_EQ(times.size(), 2u);
  EXPECT_LE(times[0].startUs, times[0].endUs);
  EXPECT_LE(times[0].endUs, times[1].startUs);
}

TEST(Executable, StopsBetweenKernels) {
  LoweredWriter w;
  std::atomic<bool> stop{false};
  int ran = 0;
  ValueId x = w.input(64), a = w.value(64), b = w.value(64);
  w.step({x}, {a}, {}, [&](auto&) {
    ran++;
    stop = true;
  });
  w.step({a}, {b}, {}, [&](auto&) { ran++; });
  w.output(b);
  Executable executable(std::move(w.lowered), w.donated, 0, false);
  Piece in(64), out(64), arena(64);
  std::byte *inputs[] = {in.data()}, *outputs[] = {out.data()};
  EXPECT_THROW(executable.run({inputs, outputs, arena.data()}, Clock(), nullptr, stop), ProgramError);
  EXPECT_EQ(ran, 1);
}

TEST(Executable, RefusesAPlanOverTheLimit) {
  LoweredWriter w;
  w.output(w.input(1000));
  EXPECT_THROW(Executable(std::move(w.lowered), w.donated, 1999, false), OutOfMemoryError);
}

}  // namespace
}  // namespace lazuli::test
