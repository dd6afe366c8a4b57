#pragma once

#include "collectives/communicator.h"
#include "cuda/stream.h"

namespace lazuli::cuda {

/// Collectives of one GPU's device. Between `open` and `close` of a run they are put on its stream; started
/// ones go beside it where the transport can.
class DeviceCommunicator : public Communicator {
 public:
  /// The stream of the run that follows.
  virtual void open(Stream& stream) = 0;
  /// Whether its collectives can be part of a CUDA graph.
  virtual bool isCapturable() const = 0;
  /// What is asked from here to `endJob` is one job, beside the stream: it begins when what is on the stream
  /// now is done.
  virtual void beginJob(int64_t job) = 0;
  virtual void endJob(int64_t job) = 0;
  /// What has gone wrong while the GPU waits for other processes, for so many seconds (Completions::Check).
  virtual std::string trouble(double) { return ""; }
  /// From any thread: why its collectives were given up; "" while they were not.
  virtual std::string failure() const { return ""; }
  /// What is put on the stream from here on comes after that job.
  virtual void waitFor(int64_t job) = 0;
};

}  // namespace lazuli::cuda
