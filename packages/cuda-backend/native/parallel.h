#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace lazuli {

/// Threads that a kernel planned or run by the calling thread may use: what that thread was given, else
/// LAZULI_THREADS, else the processors this process may run on.
int threadCount();

/// Gives the calling thread so many; 0: as many as any. A thread that runs kernels must have been given what
/// the thread that planned them had, and before its first kernel.
void setThreadCount(int threads);

/// Plans with `threads` threads for as long as it lives.
class ThreadCountScope {
 public:
  explicit ThreadCountScope(int threads);
  ~ThreadCountScope();
  ThreadCountScope(const ThreadCountScope&) = delete;
  ThreadCountScope& operator=(const ThreadCountScope&) = delete;

 private:
  int before_;
};

/// A borrowed callable; the callee must not keep it.
template <class Signature>
class FunctionRef;
template <class R, class... A>
class FunctionRef<R(A...)> {
 public:
  template <class F>
  FunctionRef(F&& f)  // NOLINT: implicit by design, for lambdas at the call
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* object, A... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<A>(args)...);
        }) {}
  R operator()(A... args) const { return call_(object_, std::forward<A>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, A...);
};

/// Calls `body(begin, end)` over pieces of [0, n) of about `grain` or more, on the pool, dynamically; every
/// `begin` is a multiple of `grain`. Rethrows the first exception after all have stopped. Runs inline when
/// there is one piece or when already inside a parallel region.
void parallelFor(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body);

/// Calls `body(thread, threads)` once for each thread of the pool; one thread may be given several of these
/// calls, one after the other. The same exception rule.
void parallelRegion(FunctionRef<void(int, int)> body);

/// Calls `body(task, thread)` for each task of [0, tasks), dynamically, on up to `threads` threads, numbered
/// from 0: a thread's number finds memory of its own. The same exception rule.
void parallelTasks(int64_t tasks, int threads, FunctionRef<void(int64_t, int)> body);

/// Copies what does not overlap on every thread of the pool; nothing where both are one place.
void copyBytes(std::byte* to, const std::byte* from, size_t bytes);

}  // namespace lazuli
