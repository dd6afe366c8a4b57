#include "collectives/queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "collectives/bucket.h"
#include "collectives/local.h"
#include "device.h"
#include "kernel_harness.h"
#include "parallel.h"
#include "program_writer.h"

namespace lazuli::test {
namespace {

using std::chrono::milliseconds;

/// Two devices, of which this thread is the first and the other one does what it is told.
class Pair {
 public:
  Pair() : mesh(2, milliseconds(60000)), first(mesh.communicator(0)), second(mesh.communicator(1)) {}
  LocalMesh mesh;
  std::unique_ptr<Communicator> first, second;

  /// One number more for both.
  static void meet(Communicator& communicator) {
    const Group group = groupOf(Dims{2}, Dims{0}, communicator.device());
    const std::string label = "all_reduce";
    float x = 1;
    auto* bytes = reinterpret_cast<std::byte*>(&x);
    communicator.allReduce({group, label}, bytes, bytes, 1, {DType::f32, ReduceKind::sum});
    EXPECT_EQ(x, 2);
  }
};

TEST(CollectiveQueue, DoesJobsInTheOrderTheyWereStarted) {
  Pair pair;
  CollectiveQueue queue(*pair.first);
  for (int round = 0; round < 200; round++) {
    std::vector<int> order;
    std::vector<uint64_t> numbers;
    for (int i = 0; i < 5; i++)
      numbers.push_back(queue.start([&order, i](Communicator&) { order.push_back(i); }));
    if (round % 2 == 0) queue.wait(numbers[3]);
    if (round % 3 == 0) queue.run([&](Communicator&) { order.push_back(5); });
    queue.wait(numbers[static_cast<size_t>(round % 5)]);
    queue.wait(numbers[4]);
    if (round % 3 == 0)
      EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5}));
    else
      EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
    queue.end();
  }
}

TEST(CollectiveQueue, WorksWhileTheDeviceDoesSomethingElse) {
  Pair pair;
  CollectiveQueue queue(*pair.first);
  const uint64_t number = queue.start(Pair::meet);
  Pair::meet(*pair.second);  // returns only once the other has come too
  queue.wait(number);
}

TEST(CollectiveQueue, LeavesOutWhatFollowsAFailure) {
  Pair pair;
  CollectiveQueue queue(*pair.first);
  std::atomic<int> ran{0};
  queue.start([](Communicator&) { throw CollectiveError("on purpose", 7); });
  uint64_t last = 0;
  try {
    last = queue.start([&](Communicator&) { ran++; });
    queue.wait(last);
    ADD_FAILURE() << "it waited for what failed";
  } catch (const CollectiveError& error) {
    EXPECT_STREQ(error.what(), "on purpose");
    EXPECT_EQ(error.node, 7);
  }
  EXPECT_THROW(queue.run([&](Communicator&) { ran++; }), CollectiveError);
  EXPECT_EQ(ran, 0);
  queue.end();
  queue.wait(queue.start([&](Communicator&) { ran++; }));
  EXPECT_EQ(ran, 1);
}

TEST(CollectiveQueue, EndsWhatWaitsOnceItsMeshHasFailed) {
  Pair pair;
  CollectiveQueue queue(*pair.first);
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < 3; i++) queue.start(Pair::meet);  // the second device never comes
    if (round % 2 == 0) std::this_thread::sleep_for(milliseconds(2));
    pair.mesh.fail({"a kernel failed", 3, RunFailure::Kind::run});
    queue.end();
    std::thread other([&] { EXPECT_EQ(pair.mesh.endRun()->error, "a kernel failed"); });
    EXPECT_EQ(pair.mesh.endRun()->error, "a kernel failed");
    other.join();
  }
}

/// What one device of three does in a bucket, or one by one: pieces of many sizes, some of which pack.
std::vector<Array> moved(Communicator& communicator, bool together) {
  const Group group = groupOf(Dims{3}, Dims{0}, communicator.device());
  const std::string label = "piece";
  const Meeting meeting{group, label};
  const auto seed = static_cast<uint32_t>(communicator.device() + 1);
  std::vector<Array> from, to;
  std::vector<std::function<void(Communicator&)>> calls;
  const auto add = [&](DType dtype, int64_t size, int64_t taken, auto call) {
    from.push_back(Array::random(dtype, {size}, seed + static_cast<uint32_t>(10 * from.size())));
    to.push_back(Array::random(dtype, {taken}, 99));
    calls.push_back([&, call, at = from.size() - 1](Communicator& by) {
      call(by, from[at].bytes.data(), to[at].bytes.data());
    });
  };
  for (DType dtype : {DType::f32, DType::bf16}) {
    const size_t item = sizeBytes(dtype);
    for (int64_t size : {3, 60000, 6, 3003, 90}) {
      const size_t bytes = static_cast<size_t>(size) * item, part = bytes / 3;
      const Spread whole{bytes, bytes}, third{part, part};
      add(dtype, size, size * 3, [=](Communicator& by, const std::byte* x, std::byte* y) {
        by.exchange(meeting, x, y, {bytes, whole, {part, bytes}, 0, part});  // three lines of thirds
      });
      add(dtype, size, size, [=](Communicator& by, const std::byte* x, std::byte* y) {
        by.exchange(meeting, x, y, {part, third, third, part, part});
      });
      add(dtype, size, size / 3, [=](Communicator& by, const std::byte* x, std::byte* y) {
        by.reduceScatter(meeting, x, y, {part, {item, 3 * item}, third, item, 0}, {dtype, ReduceKind::sum});
      });
      add(dtype, size, size, [=](Communicator& by, const std::byte* x, std::byte* y) {
        by.allReduce(meeting, x, y, static_cast<size_t>(size), {dtype, ReduceKind::sum});
      });
      add(dtype, size, size, [=](Communicator& by, const std::byte* x, std::byte* y) {
        // 0 gives to 1 and 2, and gets nothing.
        const bool isFirst = group.self == 0;
        const std::vector<int64_t> targets = isFirst ? std::vector<int64_t>{1, 2} : std::vector<int64_t>{};
        by.permute(meeting, x, y, bytes, isFirst ? -1 : 0, targets);
      });
    }
  }
  if (together) {
    Bucket bucket(communicator);
    for (const auto& call : calls) call(bucket);
    bucket.move();
  } else {
    for (const auto& call : calls) call(communicator);
  }
  return to;
}

TEST(Bucket, GivesTheBitsOfItsPiecesOneByOne) {
  std::vector<std::vector<Array>> results[2];
  for (bool together : {false, true}) {
    LocalMesh mesh(3, milliseconds(60000));
    auto& result = results[together ? 1 : 0];
    result.resize(3);
    std::vector<std::thread> threads;
    for (int device = 0; device < 3; device++) {
      threads.emplace_back([&, device] {
        const auto communicator = mesh.communicator(device);
        result[static_cast<size_t>(device)] = moved(*communicator, together);
        EXPECT_FALSE(mesh.endRun());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (size_t device = 0; device < 3; device++) {
    for (size_t i = 0; i < results[0][device].size(); i++)
      ASSERT_EQ(results[0][device][i].bytes, results[1][device][i].bytes) << device << ", piece " << i;
  }
}

/// A member whose run fails gives up between two meetings, while the others may still be reading what it
/// packed: AddressSanitizer sees whether that memory is there still.
TEST(Bucket, KeepsWhatItPackedWhileOthersReadIt) {
  constexpr int kDevices = 3, kPieces = 24;
  constexpr size_t kElements = 30000;
  LocalMesh mesh(kDevices, milliseconds(60000));
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int device = 0; device < kDevices; device++) communicators.push_back(mesh.communicator(device));
  for (int round = 0; round < 60; round++) {
    std::vector<std::thread> threads;
    for (int device = 0; device < kDevices; device++) {
      threads.emplace_back([&, device] {
        setThreadCount(1);
        const Group group = groupOf(Dims{kDevices}, Dims{0}, device);
        const std::string label = "all_reduce";
        std::vector<float> values(kElements, 1);
        auto* bytes = reinterpret_cast<std::byte*>(values.data());
        Bucket bucket(*communicators[static_cast<size_t>(device)]);
        for (int i = 0; i < kPieces; i++)
          bucket.allReduce({group, label}, bytes, bytes, kElements, {DType::f32, ReduceKind::sum});
        try {
          bucket.move();
        } catch (const CollectiveError&) {
        }
        mesh.endRun();
      });
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
    mesh.fail({"a kernel failed", 3, RunFailure::Kind::run});
    for (std::thread& thread : threads) thread.join();
  }
}

using W = ProgramWriter;

/// Sums and a gather of what is computed, beside a look-up that a place out of range fails.
Words program(bool apart) {
  W w;
  const TensorType x = f32({9, 400}), whole = f32({27, 400}), row = f32({1, 400});
  const Words mesh = W::join({W::ints({3}), W::ints({0})});
  const W::Ref given = w.input(x), place = w.input(type(DType::i32, {1}));
  const W::Ref values[] = {w.node(Op::neg, {given}, x), w.node(Op::square, {given}, x), given};
  std::vector<W::Ref> collectives;
  const auto add = [&](Op op, W::Ref operand, const TensorType& result, const Words& attrs) {
    collectives.push_back(apart ? w.started(op, operand, result, attrs)
                                : w.node(op, {operand}, result, attrs));
  };
  add(Op::all_reduce, values[0], x, W::join({mesh, W::word(0)}));
  add(Op::all_reduce, values[1], x, W::join({mesh, W::word(0)}));
  add(Op::all_gather, values[2], whole, W::join({mesh, W::integer(0)}));
  w.output(w.node(Op::index_select, {given, place}, row, W::integer(0)));
  const TensorType types[] = {x, x, whole};
  for (size_t i = 0; i < 3; i++) {
    const W::Ref value = apart ? w.done(collectives[i], values[i], types[i], i < 2 ? 0 : -1) : collectives[i];
    w.output(w.node(Op::neg, {value}, types[i]));
  }
  return w.words();
}

TEST(CollectiveQueue, RunsWholeProgramsAndSurvivesTheirFailures) {
  DeviceOptions options;
  options.virtualDevices = 3;
  const auto device = makeCpuDevice(options);
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  for (int d = 0; d < 3; d++) {
    std::vector<float> x(9 * 400);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i * 7 % 1013) / 9 + static_cast<float>(d);
    device->upload(1, bytes(x), d);
    device->upload(2, bytes(std::vector<int32_t>{d == 1 ? 9 : d}), d);  // out of range on one device
  }
  device->upload(3, bytes(std::vector<int32_t>{4}));
  BufferId next = 10;
  const auto run = [&](ExecutableId id, BufferId place) {
    std::promise<RunResult> result;
    const BufferId inputs[] = {1, place}, outputs[] = {next, next + 1, next + 2, next + 3};
    next += 4;
    device->run(id, inputs, outputs, false, [&](RunResult given) { result.set_value(std::move(given)); });
    return result.get_future().get();
  };
  const auto read = [&](BufferId buffer, int d) {
    std::vector<std::byte> target(device->bufferBytes(buffer));
    std::promise<std::string> done;
    device->download(
        buffer, target, [&](std::string error) { done.set_value(std::move(error)); }, d);
    EXPECT_EQ(done.get_future().get(), "");
    return target;
  };
  const ExecutableId plain = device->compile(program(false), false),
                     apart = device->compile(program(true), false);
  const BufferId expected = next;
  ASSERT_EQ(run(plain, 3).error, "");
  for (int round = 0; round < 40; round++) {
    const BufferId first = next;
    if (round % 4 == 3) {
      const RunResult failed = run(apart, 2);
      EXPECT_NE(failed.error.find("device 1: index_select: index 9"), std::string::npos) << failed.error;
      continue;
    }
    ASSERT_EQ(run(apart, 3).error, "");
    for (int d = 0; d < 3; d++) {
      for (BufferId o = 0; o < 4; o++) ASSERT_EQ(read(first + o, d), read(expected + o, d)) << "output " << o;
    }
  }
}

}  // namespace
}  // namespace lazuli::test
