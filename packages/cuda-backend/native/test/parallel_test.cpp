#include "parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace lazuli::test {
namespace {

/// How often each index of [0, n) was covered.
std::vector<int> covered(int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> counts(static_cast<size_t>(n));
  parallelFor(n, grain, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(begin % grain, 0);
    EXPECT_LT(begin, end);
    for (int64_t i = begin; i < end; i++) counts[static_cast<size_t>(i)]++;
  });
  return {counts.begin(), counts.end()};
}

TEST(Parallel, CoversEveryIndexOnce) {
  for (int64_t n : {0, 1, 2, 7, 64, 1000, 12345}) {
    for (int64_t grain : {1, 3, 64, 20000})
      EXPECT_EQ(covered(n, grain), std::vector<int>(static_cast<size_t>(n), 1));
  }
}

TEST(Parallel, RunsInlineWhereThereIsOnePiece) {
  auto caller = std::this_thread::get_id();
  parallelFor(100, 100, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(end - begin, 100);
  });
}

TEST(Parallel, GivesEveryThreadOfARegionOneCall) {
  std::vector<std::atomic<int>> calls(static_cast<size_t>(threadCount()));
  parallelRegion([&](int thread, int threads) {
    EXPECT_EQ(threads, threadCount());
    calls[static_cast<size_t>(thread)]++;
  });
  for (auto& count : calls) EXPECT_EQ(count, 1);
}

TEST(Parallel, RunsInlineInsideAPiece) {
  std::atomic<int64_t> sum{0};
  parallelFor(16, 1, [&](int64_t begin, int64_t end) {
    auto caller = std::this_thread::get_id();
    parallelFor(end - begin, 1, [&](int64_t from, int64_t to) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      sum += to - from;
    });
    parallelRegion([&](int thread, int threads) { EXPECT_EQ(thread * 10 + threads, 1); });
  });
  EXPECT_EQ(sum, 16);
}

TEST(Parallel, RethrowsOnceAllHaveStopped) {
  for (int round = 0; round < 200; round++) {
    std::atomic<int> inside{0};
    auto failing = [&](int64_t, int64_t end) {
      inside++;
      if (end > 500) {
        inside--;
        throw std::runtime_error("piece");
      }
      inside--;
    };
    EXPECT_THROW(parallelFor(1000, 1, failing), std::runtime_error);
    EXPECT_EQ(inside, 0);
    EXPECT_THROW(parallelRegion([](int, int) { throw std::runtime_error("thread"); }), std::runtime_error);
  }
  EXPECT_EQ(covered(100, 1), std::vector<int>(100, 1));
}

/// Jobs that follow each other closely, and after pauses in which the workers fall asleep.
TEST(Parallel, ManyJobs) {
  std::vector<int64_t> values(4096);
  for (int round = 0; round < 20000; round++) {
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    parallelFor(64, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) values[static_cast<size_t>(i)] += i;
    });
  }
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 20000 * (63 * 64 / 2));
}

TEST(Parallel, EveryCallingThreadHasAPoolOfItsOwn) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([&] {
      for (int round = 0; round < 500; round++) {
        std::atomic<int64_t> sum{0};
        parallelFor(100, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
        EXPECT_EQ(sum, 100);
        total += sum;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 4 * 500 * 100);
}

}  // namespace
}  // namespace lazuli::test
