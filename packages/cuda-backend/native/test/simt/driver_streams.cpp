// libcuda over the emulator: streams, events and graphs. A stream does at once what it is given, or records
// it while it is captured. Behind a collective that waits for other processes what follows waits too; it goes
// on when anyone asks the driver how far a stream or an event is.

#include <algorithm>

#include "driver_state.h"

using namespace lazuli::simt;

namespace {

CUstream_st* streamOf(CUstream stream) { return stream ? stream : &state().defaultStream; }

/// Ends a capture for all its streams.
std::shared_ptr<Capture> endCapture(CUstream_st* stream) {
  std::shared_ptr<Capture> capture = stream->capture;
  for (CUstream_st* part : capture->streams) part->capture = nullptr;
  std::erase(state().captures, capture);
  return capture;
}

/// Of a call that waits for what the stream has been given, or asks for it.
CUresult refuseCapture(CUstream_st* stream) {
  if (!stream->capture) return check();
  stream->capture->broken = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

bool isReached(const CUevent_st* event) { return !event->mark || event->mark->reached; }

}  // namespace

namespace lazuli::simt {

CUresult put(CUstream_st* stream, Work work) {
  if (const CUresult bad = check(); bad != CUDA_SUCCESS) return bad;
  if (!stream) stream = &state().defaultStream;
  if (stream->capture) {
    stream->capture->work.push_back(std::move(work));
    return CUDA_SUCCESS;
  }
  if (work.issue) work.issue();
  if (!stream->pending.empty() || !work.step()) stream->pending.push_back(std::move(work));
  return CUDA_SUCCESS;
}

void advance() {
  State& s = state();
  for (bool moves = true; moves;) {
    moves = false;
    for (CUstream_st* stream : s.streams) {
      while (!stream->pending.empty() && (s.sticky != CUDA_SUCCESS || stream->pending.front().step())) {
        stream->pending.pop_front();
        moves = true;
      }
    }
  }
  std::erase_if(s.streams, [](CUstream_st* stream) {
    if (!stream->isDying || !stream->pending.empty()) return false;
    delete stream;
    return true;
  });
}

void await(std::unique_lock<std::recursive_mutex>& lock, const std::function<bool()>& over) {
  while (true) {
    advance();
    if (over() || state().sticky != CUDA_SUCCESS) return;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    lock.lock();
  }
}

bool isIdle(int device) {
  return std::ranges::all_of(state().streams, [&](const CUstream_st* stream) {
    return stream->device != device || stream->pending.empty();
  });
}

}  // namespace lazuli::simt

extern "C" {

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  *stream = new CUstream_st;
  (*stream)->device = state().current[std::this_thread::get_id()]->device;
  state().streams.push_back(*stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) endCapture(stream);
  stream->isDying = true;
  advance();
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream handle) {
  LAZULI_SIMT_LOCK;
  CUstream_st* stream = streamOf(handle);
  if (const CUresult bad = refuseCapture(stream); bad != CUDA_SUCCESS) return bad;
  await(lock, [&] { return stream->pending.empty(); });
  return check();
}
CUresult cuStreamQuery(CUstream handle) {
  LAZULI_SIMT_LOCK;
  CUstream_st* stream = streamOf(handle);
  if (const CUresult bad = refuseCapture(stream); bad != CUDA_SUCCESS) return bad;
  advance();
  return stream->pending.empty() ? check() : CUDA_ERROR_NOT_READY;
}
CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  CUstream_st* stream = streamOf(handle);
  const std::shared_ptr<Capture> capture = event->capture.lock();
  if (!capture) {
    if (isReached(event)) return CUDA_SUCCESS;
    if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return put(stream, {[mark = event->mark] { return mark->reached; }, nullptr});
  }
  if (stream->capture && stream->capture != capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (!stream->capture) {
    stream->capture = capture;
    capture->streams.push_back(stream);
  }
  return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // the default stream
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture =
      std::make_shared<Capture>(Capture{stream, mode, std::this_thread::get_id(), false, {stream}, {}});
  state().captures.push_back(stream->capture);
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  LAZULI_SIMT_LOCK;
  *graph = nullptr;
  if (!stream || !stream->capture || stream->capture->origin != stream) return CUDA_ERROR_ILLEGAL_STATE;
  const std::shared_ptr<Capture> capture = endCapture(stream);
  if (capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = new CUgraph_st{std::move(capture->work)};
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  LAZULI_SIMT_LOCK;
  const auto& capture = streamOf(stream)->capture;
  *status = !capture          ? CU_STREAM_CAPTURE_STATUS_NONE
            : capture->broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                              : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  *event = new CUevent_st;
  (*event)->timed = !(flags & CU_EVENT_DISABLE_TIMING);
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
  delete event;
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream handle) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  CUstream_st* stream = streamOf(handle);
  event->capture = stream->capture;
  if (stream->capture) return CUDA_SUCCESS;
  event->mark = std::make_shared<Mark>();
  return enqueue(stream, [mark = event->mark] {
    mark->reached = true;
    mark->at = std::chrono::steady_clock::now();
  });
}
CUresult cuEventSynchronize(CUevent event) {
  LAZULI_SIMT_LOCK;
  if (!event->capture.expired()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  await(lock, [&] { return isReached(event); });
  return check();
}
CUresult cuEventQuery(CUevent event) {
  LAZULI_SIMT_LOCK;
  if (!event->capture.expired()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  advance();
  if (const CUresult bad = check(); bad != CUDA_SUCCESS) return bad;
  return isReached(event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (!start->timed || !end->timed || !start->mark || !end->mark) return CUDA_ERROR_INVALID_HANDLE;
  if (!isReached(start) || !isReached(end)) return CUDA_ERROR_NOT_READY;
  *milliseconds = std::chrono::duration<float, std::milli>(end->mark->at - start->mark->at).count();
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  *executable = new CUgraphExec_st{graph->work};
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (streamOf(stream)->capture)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // child graphs are not emulated
  for (const Work& work : executable->work) {
    if (put(stream, work) != CUDA_SUCCESS)
      break;  // a fault of what came before: as on a GPU, the next call tells
  }
  return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {
  delete executable;
  return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
  delete graph;
  return CUDA_SUCCESS;
}

}  // extern "C"
