#include "cpu/cpu_device.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>

#include "cpu/memory.h"
#include "lowered_writer.h"
#include "program_writer.h"

namespace lazuli::test {
namespace {

using W = ProgramWriter;
using Floats = std::vector<float>;

/// What stands for the real lowering here: each node its own kernel over float32 vectors. `neg` is in place
/// where it may be, `log` refuses what is not positive, `exp` waits for `gate`.
struct Gate {
  void open(bool isOpen) {
    std::lock_guard lock(mutex);
    opened = isOpen;
    changed.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex);
    waiting = true;
    changed.notify_all();
    changed.wait(lock, [this] { return opened; });
    waiting = false;
  }
  void awaitWaiter() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return waiting; });
  }
  std::mutex mutex;
  std::condition_variable changed;
  bool opened = true, waiting = false;
} gate;

float compute(Op op, float a, float b) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::neg:
      return -a;
    case Op::log:
      if (!(a > 0)) throw ProgramError("[log] of " + std::to_string(a));
      return a - 1;
    default:
      return a;
  }
}

Lowered lowerSimply(const Program& program) {
  Lowered lowered;
  for (const auto& value : program.values) lowered.values.push_back(value.type);
  lowered.outputs = program.outputs;
  for (size_t n = 0; n < program.nodes.size(); n++) {
    const Node& node = program.nodes[n];
    if (node.results.empty()) continue;
    if (node.op == Op::constant) {
      lowered.constants.emplace_back(node.results[0], node.bytes(attr::constant::data));
      continue;
    }
    Step step;
    size_t count = static_cast<size_t>(program.type(node.results[0]).elements());
    step.made.kernel = std::make_unique<TestKernel>([op = node.op, count](const KernelArgs& args) {
      if (op == Op::exp) gate.pass();
      auto* y = reinterpret_cast<float*>(args.writes[0]);
      auto* a = reinterpret_cast<const float*>(args.reads[0]);
      auto* b = reinterpret_cast<const float*>(args.reads[op == Op::add ? 1 : 0]);
      for (size_t i = 0; i < count; i++) y[i] = compute(op, a[i], b[i]);
    });
    step.made.label = name(node.op);
    if (node.op == Op::neg) step.made.inPlace = {{0, 0}};
    step.reads = node.operands;
    step.writes = node.results;
    step.node = static_cast<int64_t>(n);
    lowered.steps.push_back(std::move(step));
  }
  return lowered;
}

/// A device and calls that wait.
class CpuDeviceTest : public testing::Test {
 protected:
  void SetUp() override { open({}); }
  void TearDown() override { gate.open(true); }
  void open(const DeviceOptions& options) { device = std::make_unique<CpuDevice>(options, lowerSimply); }

  ExecutableId compile(const W& w) { return device->compile(w.words(), false); }

  void upload(BufferId id, const Floats& values) { device->upload(id, std::as_bytes(std::span(values))); }

  /// Asks for a run; its result is there once `wait` has been called.
  std::shared_ptr<RunResult> start(ExecutableId executable, std::vector<BufferId> inputs,
                                   std::vector<BufferId> outputs, bool profile = false) {
    auto result = std::make_shared<RunResult>();
    begin();
    try {
      device->run(executable, inputs, outputs, profile, [this, result](RunResult made) {
        *result = std::move(made);
        end();
      });
    } catch (...) {
      end();
      throw;
    }
    return result;
  }
  RunResult run(ExecutableId executable, std::vector<BufferId> inputs, std::vector<BufferId> outputs,
                bool profile = false) {
    auto result = start(executable, std::move(inputs), std::move(outputs), profile);
    wait();
    return *result;
  }
  std::string download(BufferId id, Floats& values) {
    std::string message;
    begin();
    device->download(id, std::as_writable_bytes(std::span(values)), [this, &message](std::string error) {
      message = std::move(error);
      end();
    });
    wait();
    return message;
  }
  Floats read(BufferId id) {
    Floats values(device->bufferBytes(id) / sizeof(float));
    EXPECT_EQ(download(id, values), "");
    return values;
  }

  void begin() {
    std::lock_guard lock(mutex_);
    pending_++;
  }
  void end() {
    std::lock_guard lock(mutex_);
    pending_--;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return pending_ == 0; });
  }

  /// (x, y) → unary op of x + y
  static W sumThen(Op op, int64_t size, bool donate = false) {
    W w;
    auto x = w.input(f32({size}), donate), y = w.input(f32({size}));
    auto sum = w.node(Op::add, {x, y}, f32({size}));
    w.output(w.node(op, {sum}, f32({size})));
    return w;
  }

  std::unique_ptr<CpuDevice> device;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int pending_ = 0;
};

TEST_F(CpuDeviceTest, RunsAProgram) {
  ExecutableId executable = compile(sumThen(Op::neg, 3));
  upload(1, {1, 2, 3});
  upload(2, {10, 20, 30});
  RunResult result = run(executable, {1, 2}, {3}, true);
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(result.kernels.size(), 2u);
  EXPECT_LE(result.startUs, result.kernels[0].startUs);
  EXPECT_LE(result.kernels[1].endUs, result.endUs);
  EXPECT_EQ(read(3), (Floats{-11, -22, -33}));
  EXPECT_EQ(read(1), (Floats{1, 2, 3}));
  EXPECT_EQ(run(executable, {3, 3}, {4}).kernels.size(), 0u);
  EXPECT_EQ(read(4), (Floats{22, 44, 66}));
}

TEST_F(CpuDeviceTest, KeepsTheOrderOfCalls) {
  gate.open(false);
  ExecutableId slow = compile(sumThen(Op::exp, 2)), quick = compile(sumThen(Op::neg, 2, true));
  upload(1, {1, 2});
  upload(2, {5, 5});
  auto first = start(slow, {1, 2}, {3});
  gate.awaitWaiter();
  // All of this waits behind the first run, with the ids as the calls leave them.
  auto second = start(quick, {3, 2}, {4});
  device->free(std::vector<BufferId>{1, 2});
  upload(1, {100, 100});
  device->release(slow);
  auto third = start(quick, {4, 1}, {5});
  gate.open(true);
  EXPECT_EQ(read(5), (Floats{-(-6 - 5 + 100.f), -(-7 - 5 + 100.f)}));
  EXPECT_EQ(read(1), (Floats{100, 100}));
  for (const auto& result : {first, second, third}) EXPECT_EQ(result->error, "");
  EXPECT_EQ(device->stats().liveBytes, 16u);
}

TEST_F(CpuDeviceTest, DonatedBuffersBecomeOutputs) {
  W w;
  auto x = w.input(f32({1024}), true);
  w.output(w.node(Op::neg, {x}, f32({1024})));
  ExecutableId executable = compile(w);
  EXPECT_EQ(device->info(executable).outputBytes, 0u);
  upload(1, Floats(1024, 2));
  size_t before = device->stats().liveBytes;
  for (BufferId id = 1; id < 20; id++) EXPECT_EQ(run(executable, {id}, {id + 1}).error, "");
  EXPECT_EQ(device->stats().liveBytes, before);
  EXPECT_EQ(device->stats().peakBytes, before);
  EXPECT_EQ(read(20), Floats(1024, -2));
  EXPECT_THROW(device->bufferBytes(19), std::invalid_argument);
}

TEST_F(CpuDeviceTest, OutputsThatAreInputsOrConstants) {
  W w;
  auto x = w.input(f32({2}), true), y = w.input(f32({2}));
  const Floats seven = {7, 8};
  std::vector<uint8_t> data(8);
  std::memcpy(data.data(), seven.data(), 8);
  auto constant = w.node(Op::constant, {}, f32({2}), W::join({W::ints({2}), W::word(0), W::bytes(data)}));
  for (auto ref : {x, y, constant, x, w.node(Op::add, {constant, y}, f32({2}))}) w.output(ref);
  ExecutableId executable = compile(w);
  EXPECT_EQ(device->info(executable).constantBytes, 8u);
  upload(1, {1, 2});
  upload(2, {3, 4});
  EXPECT_EQ(run(executable, {1, 2}, {10, 11, 12, 13, 14}).error, "");
  EXPECT_EQ(read(10), (Floats{1, 2}));
  EXPECT_EQ(read(11), (Floats{3, 4}));
  EXPECT_EQ(read(12), seven);
  EXPECT_EQ(read(13), (Floats{1, 2}));
  EXPECT_EQ(read(14), (Floats{10, 12}));
  EXPECT_EQ(read(2), (Floats{3, 4}));
}

TEST_F(CpuDeviceTest, AFailedRunMarksItsOutputs) {
  ExecutableId log = compile(sumThen(Op::log, 2, true)), neg = compile(sumThen(Op::neg, 2));
  upload(1, {1, -5});
  upload(2, {1, 1});
  RunResult failed = run(log, {1, 2}, {3});
  EXPECT_EQ(failed.error, "[log] of -4.000000");
  EXPECT_EQ(failed.errorNode, 1);
  EXPECT_FALSE(failed.outOfMemory);
  Floats values(2);
  EXPECT_EQ(download(3, values), failed.error);
  EXPECT_EQ(run(neg, {3, 2}, {4}).error, failed.error);
  EXPECT_EQ(download(4, values), failed.error);
  device->free(std::vector<BufferId>{3, 4});
  // The device goes on.
  upload(1, {5, 5});
  EXPECT_EQ(run(log, {1, 2}, {3}).error, "");
  EXPECT_EQ(read(3), (Floats{5, 5}));
}

TEST_F(CpuDeviceTest, AnOutputMayTakeTheNumberOfADonatedInput) {
  ExecutableId neg = compile(sumThen(Op::neg, 2, true)), log = compile(sumThen(Op::log, 2, true));
  upload(1, {1, 2});
  upload(2, {3, 4});
  EXPECT_EQ(run(neg, {1, 2}, {1}).error, "");
  EXPECT_EQ(read(1), (Floats{-4, -6}));
  EXPECT_EQ(run(neg, {1, 2}, {1}).error, "");
  EXPECT_EQ(read(1), (Floats{1, 2}));
  EXPECT_EQ(device->stats().liveBytes, 16u);
  EXPECT_THROW(run(neg, {1, 2}, {2}), std::invalid_argument);  // not donated
  RunResult failed = run(log, {1, 2}, {1});
  EXPECT_EQ(failed.error, "");
  upload(3, {-100, 0});
  failed = run(log, {1, 3}, {1});
  EXPECT_NE(failed.error, "");
  Floats values(2);
  EXPECT_EQ(download(1, values), failed.error);
  EXPECT_EQ(run(neg, {1, 2}, {1}).error, failed.error);
  device->free(std::vector<BufferId>{1});
  EXPECT_EQ(device->stats().liveBytes, 16u);
}

TEST_F(CpuDeviceTest, RefusesWrongRequestsBeforeTheyChangeAnything) {
  ExecutableId executable = compile(sumThen(Op::neg, 2, true));
  upload(1, {1, 2});
  upload(2, {3, 4});
  upload(3, {5});
  auto never = [](RunResult) { FAIL(); };
  auto refused = [&](std::vector<BufferId> in, std::vector<BufferId> out) {
    EXPECT_THROW(device->run(executable, in, out, false, never), std::invalid_argument);
  };
  refused({1}, {9});
  refused({1, 2, 2}, {9});
  refused({1, 2}, {});
  refused({1, 7}, {9});
  refused({1, 3}, {9});  // too small
  refused({1, 1}, {9});  // donated and read
  refused({1, 2}, {3});  // exists
  EXPECT_THROW(device->run(99, {}, {}, false, never), std::invalid_argument);
  EXPECT_THROW(device->release(99), std::invalid_argument);
  EXPECT_THROW(device->info(99), std::invalid_argument);
  EXPECT_THROW(upload(1, {1}), std::invalid_argument);
  EXPECT_THROW(device->free(std::vector<BufferId>{1, 9}), std::invalid_argument);
  EXPECT_THROW(device->free(std::vector<BufferId>{1, 1}), std::invalid_argument);
  Floats small(1);
  EXPECT_THROW(device->download(1, std::as_writable_bytes(std::span(small)), [](std::string) {}),
               std::invalid_argument);
  EXPECT_EQ(device->stats().liveBytes, 20u);
  EXPECT_EQ(run(executable, {1, 2}, {9}).error, "");
  EXPECT_EQ(read(9), (Floats{-4, -6}));
}

TEST_F(CpuDeviceTest, KeepsToTheMemoryLimit) {
  open({.memoryLimitBytes = 100000});
  EXPECT_THROW(compile(sumThen(Op::neg, 10000)), OutOfMemoryError);
  ExecutableId executable = compile(sumThen(Op::neg, 5000));  // 60 kB: the sum is in the output's memory
  upload(1, Floats(5000, 1));
  upload(2, Floats(5000, 2));
  EXPECT_EQ(run(executable, {1, 2}, {3}).error, "");
  EXPECT_EQ(run(executable, {1, 2}, {4}).error, "");
  EXPECT_EQ(run(executable, {1, 2}, {5}).error, "");
  EXPECT_THROW(run(executable, {1, 2}, {6}), OutOfMemoryError);
  EXPECT_THROW(upload(6, Floats(1)), OutOfMemoryError);
  device->free(std::vector<BufferId>{3});
  read(4);  // an upload takes its memory at the call, so the free must have been done
  upload(6, Floats(5000));
  EXPECT_LE(device->stats().peakBytes, 101000u);  // blocks are rounded up to lines of 64
}

TEST_F(CpuDeviceTest, ClosingEndsWhatIsPending) {
  gate.open(false);
  ExecutableId slow = compile(sumThen(Op::exp, 2));
  upload(1, {1, 2});
  auto first = start(slow, {1, 1}, {2}), second = start(slow, {2, 2}, {3});
  gate.awaitWaiter();
  Floats values(2);
  std::string message;
  device->download(2, std::as_writable_bytes(std::span(values)), [&](std::string error) { message = error; });
  std::thread opener([] { gate.open(true); });
  device = nullptr;
  opener.join();
  EXPECT_EQ(second->error, "the device was closed");
  EXPECT_EQ(message, "the device was closed");
}

TEST(CpuMemory, ReusesFreedBlocks) {
  CpuMemory memory(0);
  std::byte* address;
  {
    Block block = memory.take(size_t{8} << 20);
    address = block.data();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % (size_t{2} << 20), 0u);
    std::memset(address, 1, size_t{8} << 20);
  }
  EXPECT_EQ(memory.stats().cachedBytes, size_t{8} << 20);
  Block again = memory.take((size_t{8} << 20) - 5000);
  EXPECT_EQ(again.data(), address);
  EXPECT_EQ(memory.stats().cachedBytes, 0u);
  EXPECT_NE(memory.take(size_t{4} << 20).data(), nullptr);
  EXPECT_NE(memory.take(0).data(), nullptr);
  EXPECT_THROW(memory.take(SIZE_MAX - 5), std::bad_alloc);
}

TEST(CpuMemory, KeepsNoMoreThanItsShare) {
  CpuMemory memory(0);
  std::vector<Block> blocks;
  for (int i = 0; i < 40; i++)
    blocks.push_back(memory.take(size_t{16} << 20));  // never touched: costs address space only
  blocks.clear();
  EXPECT_EQ(memory.stats().cachedBytes, size_t{256} << 20);
  EXPECT_EQ(memory.stats().peakBytes, size_t{640} << 20);
}

TEST(CpuMemory, CachedBlocksMakeRoomUnderALimit) {
  CpuMemory memory(size_t{64} << 20);
  { Block block = memory.take(size_t{40} << 20); }
  Block other = memory.take(size_t{50} << 20);
  EXPECT_EQ(memory.stats().cachedBytes, 0u);
  EXPECT_EQ(memory.stats().peakBytes, size_t{50} << 20);
}

TEST(CpuMemory, TheArenaGrowsAndIsLetGo) {
  CpuMemory memory(0);
  EXPECT_EQ(memory.arena(0), nullptr);
  std::byte* small = memory.arena(1000);
  EXPECT_EQ(memory.arena(500), small);
  memory.arena(size_t{6} << 20)[(size_t{6} << 20) - 1] = std::byte{1};
  memory.trimArena(size_t{6} << 20);
  EXPECT_EQ(memory.stats().arenaBytes, size_t{6} << 20);
  memory.trimArena(1000);
  EXPECT_EQ(memory.stats().arenaBytes, 0u);
}

}  // namespace
}  // namespace lazuli::test
