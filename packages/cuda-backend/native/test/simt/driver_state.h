#pragma once

// What the emulated driver's functions share.

#include <cuda.h>

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "launch.h"

struct CUctx_st {
  int device = 0;
  int references = 0;
};

namespace lazuli::simt {
struct Capture;

/// What a stream does. `step` is asked until it gives true: false where it waits for other processes, as a
/// collective does. `issue` is called when it is put on a stream.
struct Work {
  std::function<bool()> step;
  std::function<void()> issue;
};

/// A place in a stream's work.
struct Mark {
  bool reached = false;
  std::chrono::steady_clock::time_point at;
};
}  // namespace lazuli::simt

struct CUgraph_st {
  std::vector<lazuli::simt::Work> work;
};
struct CUgraphExec_st {
  std::vector<lazuli::simt::Work> work;
};
struct CUstream_st {
  int device = 0;
  bool isDying = false;
  std::deque<lazuli::simt::Work> pending;
  std::shared_ptr<lazuli::simt::Capture> capture;
};
struct CUevent_st {
  bool timed = true;
  std::shared_ptr<lazuli::simt::Mark> mark;      // of the last record
  std::weak_ptr<lazuli::simt::Capture> capture;  // that it was recorded in
};

namespace lazuli::simt {

/// Of one or more streams, which came together by events.
struct Capture {
  CUstream_st* origin;
  CUstreamCaptureMode mode;
  std::thread::id thread;
  bool broken = false;
  std::vector<CUstream_st*> streams;
  std::vector<Work> work;
};

struct Allocation {
  size_t bytes;  // as asked for
  int device;
  char* mapping;
  size_t mapped;
};

struct State {
  std::recursive_mutex mutex;
  bool started = false;
  CUresult sticky = CUDA_SUCCESS;  // what a fault left; every call says it from then on
  std::string fault;
  CUctx_st contexts[16];
  std::map<std::thread::id, CUctx_st*> current;
  std::map<CUdeviceptr, Allocation> memory;
  size_t used[16] = {};
  CUstream_st defaultStream;
  std::vector<CUstream_st*> streams;
  std::vector<std::shared_ptr<Capture>> captures;
};
/// Never destroyed: what uses CUDA may outlive this library's static objects.
State& state();

int deviceCount();        // LAZULI_SIMT_DEVICES, 1
size_t memoryLimit();     // LAZULI_SIMT_MEMORY, in bytes
int computeCapability();  // LAZULI_SIMT_ARCH: 80 for "8.0"
size_t sharedLimit();     // what a block may opt into

/// CUDA_SUCCESS where a context is current and no fault has happened.
CUresult check();
/// Of an operation that CUDA forbids while a stream that it would wait for is being captured.
CUresult checkNotCapturing();

/// Does the work now, behind what the stream waits for where it waits, or records it where the stream is
/// being captured.
CUresult put(CUstream_st* stream, Work work);
template <class Body>
CUresult enqueue(CUstream_st* stream, Body&& body) {
  return put(stream, {[body = std::forward<Body>(body)] {
                        body();
                        return true;
                      },
                      nullptr});
}
/// Goes on with every stream as far as it comes.
void advance();
/// Returns when `over` holds or a fault has happened. `lock` is the state's.
void await(std::unique_lock<std::recursive_mutex>& lock, const std::function<bool()>& over);
/// Whether no stream of the device has anything to do.
bool isIdle(int device);

/// Whether all of it lies in one live allocation.
bool isDevice(CUdeviceptr at, size_t bytes);

}  // namespace lazuli::simt

#define LAZULI_SIMT_LOCK std::unique_lock lock(::lazuli::simt::state().mutex)
#define LAZULI_SIMT_CHECK \
  if (const CUresult bad = ::lazuli::simt::check(); bad != CUDA_SUCCESS) return bad
