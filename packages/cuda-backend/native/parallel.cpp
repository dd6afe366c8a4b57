#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace lazuli {
namespace {

constexpr int kMostThreads = 1024;
// Pieces for each thread: enough to even out a thread that the system interrupts.
constexpr int64_t kPiecesPerThread = 16;

/// Keeps the first exception that any thread throws; an exception must not leave an OpenMP region.
class FirstError {
 public:
  template <class F>
  void guard(F&& work) noexcept {
    try {
      work();
    } catch (...) {
      if (!taken_.exchange(true)) error_ = std::current_exception();
    }
  }
  bool any() const { return taken_.load(std::memory_order_relaxed); }
  /// Only after every thread has stopped.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> taken_{false};
  std::exception_ptr error_;
};

#if defined(_OPENMP)
bool inParallel() { return omp_in_parallel() != 0; }

int availableProcessors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}
#else
bool inParallel() { return false; }
#endif

}  // namespace

int threadCount() {
#if defined(_OPENMP)
  static const int count = [] {
    const char* text = std::getenv("LAZULI_THREADS");
    int wanted = text ? std::atoi(text) : 0;
    return std::clamp(wanted > 0 ? wanted : availableProcessors(), 1, kMostThreads);
  }();
  return count;
#else
  return 1;
#endif
}

void adoptThreadPool() {
#if defined(_OPENMP)
  omp_set_num_threads(threadCount());
#endif
}

void parallelRegion(FunctionRef<void(int, int)> body) {
  if (threadCount() == 1 || inParallel()) {
    body(0, 1);
    return;
  }
#if defined(_OPENMP)
  FirstError error;
#pragma omp parallel num_threads(threadCount())
  error.guard([&] { body(omp_get_thread_num(), omp_get_num_threads()); });
  error.rethrow();
#endif
}

void parallelFor(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (n <= grain || threadCount() == 1 || inParallel()) {
    body(0, n);
    return;
  }
#if defined(_OPENMP)
  // A multiple of the grain, so that a grain chosen for alignment keeps every piece aligned.
  int64_t grains = (n - 1) / grain + 1;
  int64_t most = kPiecesPerThread * threadCount();
  int64_t piece = ((grains - 1) / most + 1) * grain;
  int64_t pieces = (n - 1) / piece + 1;
  int threads = static_cast<int>(std::min<int64_t>(pieces, threadCount()));
  std::atomic<int64_t> next{0};
  FirstError error;
#pragma omp parallel num_threads(threads)
  error.guard([&] {
    for (int64_t i = next++; i < pieces && !error.any(); i = next++) {
      body(i * piece, std::min(n, (i + 1) * piece));
    }
  });
  error.rethrow();
#endif
}

}  // namespace lazuli
