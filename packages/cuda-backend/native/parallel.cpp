#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lazuli {
namespace {

using Microseconds = std::chrono::microseconds;

constexpr int kMostThreads = 1024;
// Pieces for each thread: enough to even out a thread that the system interrupts.
constexpr int64_t kPiecesPerThread = 16;
// How long a worker looks for the next job before it sleeps (the kernels of a program follow each other
// within microseconds), and the caller for the last piece of a worker.
constexpr Microseconds kWorkerPatience{100};
constexpr Microseconds kCallerPatience{20};

int availableProcessors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Spins until `done` holds, no longer than `patience`.
template <class Done>
bool spin(Microseconds patience, Done done) {
  auto until = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 32; i++) {
      if (done()) return true;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

/// True in a piece of a job: what it calls runs inline.
thread_local bool inJob = false;

/// What this thread was given; 0: nothing.
thread_local int ownThreads = 0;

/// The workers of one calling thread. A job is a number of pieces that the caller and the workers take one by
/// one; the caller waits only for workers that have taken one. A worker that the system is not running costs
/// nothing that way, where a barrier would cost a time slice: on a busy machine the difference is manifold.
class Pool {
 public:
  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; i++) {
        workers_.emplace_back([this, threads] {
          ownThreads = threads;
          work();
        });
      }
    } catch (const std::system_error&) {  // the system gives no more threads: there are enough, slower
    }
  }

  ~Pool() {
    ending_ = true;
    wake();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int64_t pieces, FunctionRef<void(int64_t)> piece) {
    piece_ = &piece;
    pieces_ = pieces;
    next_ = 0;
    failed_ = false;
    error_ = nullptr;
    gate_ = kOpen;
    wake();
    inJob = true;
    takePieces();
    inJob = false;
    close();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kOpen = 1 << 30;

  void takePieces() {
    try {
      for (int64_t i = next_++; i < pieces_ && !failed_; i = next_++) (*piece_)(i);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }

  void wake() {
    jobs_++;
    if (sleepers_ == 0) return;
    { std::lock_guard lock(mutex_); }  // a worker about to sleep has counted itself, and waits now
    awake_.notify_all();
  }

  /// Lets no more workers in, and waits for those that are. Only then may the job's fields change.
  void close() {
    if (gate_.fetch_and(~kOpen) == kOpen) return;
    if (spin(kCallerPatience, [&] { return gate_ == 0; })) return;
    std::unique_lock lock(mutex_);
    callerWaits_ = true;
    empty_.wait(lock, [&] { return gate_ == 0; });
    callerWaits_ = false;
  }

  bool enter() {
    int gate = gate_;
    while ((gate & kOpen) != 0 && next_ < pieces_) {
      if (gate_.compare_exchange_weak(gate, gate + 1)) return true;
    }
    return false;
  }

  void leave() {
    if (gate_.fetch_sub(1) != 1 || !callerWaits_) return;
    { std::lock_guard lock(mutex_); }
    empty_.notify_one();
  }

  void work() {
    inJob = true;
    while (!ending_) {
      int64_t seen = jobs_;
      if (enter()) {
        takePieces();
        leave();
      }
      if (spin(kWorkerPatience, [&] { return jobs_ != seen; })) continue;
      std::unique_lock lock(mutex_);
      sleepers_++;
      awake_.wait(lock, [&] { return jobs_ != seen; });
      sleepers_--;
    }
  }

  // Lines of their own: every thread writes the second, the first and third are mostly read.
  alignas(64) std::atomic<int> gate_{0};  // workers inside the job, and kOpen while more may come
  std::atomic<int64_t> jobs_{0};          // rises with each
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> pieces_{0};
  std::atomic<FunctionRef<void(int64_t)>*> piece_{nullptr};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;

  std::mutex mutex_;
  std::condition_variable awake_, empty_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> callerWaits_{false}, ending_{false};
  std::vector<std::thread> workers_;
};

void runPieces(int64_t pieces, FunctionRef<void(int64_t)> piece) {
  thread_local Pool pool(threadCount());
  pool.run(pieces, piece);
}

}  // namespace

int threadCount() {
  if (ownThreads > 0) return ownThreads;
  static const int count = [] {
    const char* text = std::getenv("LAZULI_THREADS");
    int wanted = text ? std::atoi(text) : 0;
    return std::clamp(wanted > 0 ? wanted : availableProcessors(), 1, kMostThreads);
  }();
  return count;
}

void setThreadCount(int threads) { ownThreads = std::clamp(threads, 0, kMostThreads); }

ThreadCountScope::ThreadCountScope(int threads) : before_(ownThreads) { setThreadCount(threads); }
ThreadCountScope::~ThreadCountScope() { ownThreads = before_; }

void parallelRegion(FunctionRef<void(int, int)> body) {
  int threads = threadCount();
  if (threads == 1 || inJob) {
    body(0, 1);
    return;
  }
  runPieces(threads, [&](int64_t thread) { body(static_cast<int>(thread), threads); });
}

void parallelFor(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (n <= grain || threadCount() == 1 || inJob) {
    body(0, n);
    return;
  }
  // A multiple of the grain, so that a grain chosen for alignment keeps every piece aligned.
  int64_t grains = (n - 1) / grain + 1;
  int64_t most = kPiecesPerThread * threadCount();
  int64_t piece = ((grains - 1) / most + 1) * grain;
  runPieces((n - 1) / piece + 1, [&](int64_t i) { body(i * piece, std::min(n, (i + 1) * piece)); });
}

void parallelTasks(int64_t tasks, int threads, FunctionRef<void(int64_t, int)> body) {
  if (threads == 1 || tasks == 1 || inJob) {
    for (int64_t task = 0; task < tasks; task++) body(task, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  runPieces(std::min<int64_t>(threads, tasks), [&](int64_t thread) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
      body(task, static_cast<int>(thread));
  });
}

void copyBytes(std::byte* to, const std::byte* from, size_t bytes) {
  constexpr int64_t kGrain = 1 << 18;
  if (to == from) return;
  parallelFor(static_cast<int64_t>(bytes), kGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace lazuli
