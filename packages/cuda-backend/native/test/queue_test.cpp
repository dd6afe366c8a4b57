#include "collectives/queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "collectives/bucket.h"
#include "collectives/local.h"
#include "kernel_harness.h"

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

}  // namespace
}  // namespace lazuli::test
