#pragma once

#include <list>
#include <memory>
#include <vector>

#include "cuda/handles.h"
#include "cuda/stream.h"
#include "executable.h"

namespace lazuli::cuda {

class DeviceCommunicator;

/// What an executable is on one GPU: its constants there, and the graphs of runs that were captured. Of one
/// worker's thread.
class DeviceProgram {
 public:
  explicit DeviceProgram(const Executable& executable);
  ~DeviceProgram();
  DeviceProgram(const DeviceProgram&) = delete;
  DeviceProgram& operator=(const DeviceProgram&) = delete;

  /// Puts a run on the stream. The first time kernel by kernel; from the second time with the same memory on
  /// as one graph. `marks`, where not null, gets an event before every step and one at the end, and no graph
  /// is used.
  void run(Executable::Memory memory, Stream& stream, DeviceCommunicator* communicator,
           std::vector<EventHandle>* marks);

 private:
  /// One set of addresses that the executable ran with.
  struct Known {
    std::vector<std::byte*> bases;
    GraphHandle graph;  // null until it is captured
  };

  void put(const Executable::Memory& memory, Stream& stream, DeviceCommunicator* communicator,
           std::vector<EventHandle>* marks) const;
  GraphHandle capture(const Executable::Memory& memory, Stream& stream,
                      DeviceCommunicator* communicator) const;
  bool isCapturable(const DeviceCommunicator* communicator) const;

  const Executable& executable_;
  std::byte* constants_ = nullptr;
  std::list<Known> known_;  // last used first
  int captures_ = 0;
};

}  // namespace lazuli::cuda
