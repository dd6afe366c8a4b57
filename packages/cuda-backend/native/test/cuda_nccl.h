#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernel.h"

namespace lazuli::cuda {
class NcclCommunicator;
class Stream;
}  // namespace lazuli::cuda

namespace lazuli::test {

/// Whether NCCL is there, with a GPU for each of so many devices.
bool hasNccl(int devices);

/// Calls `body` on a thread of each device, which has a GPU, its part in a mesh by NCCL, and a stream.
void everywhereByNccl(int devices, double timeoutSeconds,
                      const std::function<void(int device, cuda::NcclCommunicator&, cuda::Stream&)>& body);

/// Runs a collective kernel on every device three times: on the device's stream, as a job beside it, and as a
/// job of a captured graph. `reads`: by device, empty where the op has no operand; `writes` gets what the
/// last wrote.
void runByNccl(const MadeKernel& made, const std::vector<std::span<const std::byte>>& reads,
               const std::vector<std::span<std::byte>>& writes, bool inPlace);

}  // namespace lazuli::test
