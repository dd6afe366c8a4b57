// libcuda over the emulator: streams, events and graphs. A stream does at once what it is given, or records
// it while it is captured.

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

/// Of a call that waits for what the stream has been given.
CUresult synchronise(CUstream_st* stream) {
  if (!stream->capture) return check();
  stream->capture->broken = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

}  // namespace

extern "C" {

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  *stream = new CUstream_st;
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) endCapture(stream);
  delete stream;
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  LAZULI_SIMT_LOCK;
  return synchronise(streamOf(stream));
}
CUresult cuStreamQuery(CUstream stream) {
  LAZULI_SIMT_LOCK;
  return synchronise(streamOf(stream));
}
CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  CUstream_st* stream = streamOf(handle);
  const std::shared_ptr<Capture> capture = event->capture.lock();
  if (!capture) return CUDA_SUCCESS;
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
  event->recorded = true;
  event->at = std::chrono::steady_clock::now();
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
  LAZULI_SIMT_LOCK;
  if (!event->capture.expired()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return check();
}
CUresult cuEventQuery(CUevent event) { return cuEventSynchronize(event); }
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (!start->timed || !end->timed || !start->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count();
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
  if (streamOf(stream)->capture)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // child graphs are not emulated
  return enqueue(stream, [&] {
    for (const auto& work : executable->work) {
      if (state().sticky != CUDA_SUCCESS) break;
      work();
    }
  });
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
