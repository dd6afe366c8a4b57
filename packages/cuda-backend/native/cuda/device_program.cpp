#include "cuda/device_program.h"

#include <cstdlib>
#include <cstring>

#include "cuda/communicator.h"

namespace lazuli::cuda {
namespace {

// Inputs that are uploaded anew for every step take turns in a few places; a program that goes on with new
// addresses after so many captures gains nothing from them.
constexpr size_t kMostKnown = 8;
constexpr int kMostCaptures = 32;

bool wantsGraphs() {
  static const bool wanted = [] {
    const char* value = std::getenv("LAZULI_CUDA_GRAPHS");
    return !value || std::strcmp(value, "0") != 0;
  }();
  return wanted;
}

}  // namespace

DeviceProgram::DeviceProgram(const Executable& executable) : executable_(executable) {
  const std::span<const std::byte> data = executable.constants();
  if (data.empty()) return;
  CUdeviceptr memory = 0;
  const CUresult taken = Driver::get().cuMemAlloc(&memory, data.size());
  if (taken == CUDA_ERROR_OUT_OF_MEMORY) throw std::bad_alloc();
  Driver::get().check(taken, "cuMemAlloc");
  constants_ = reinterpret_cast<std::byte*>(memory);
  // Not on any stream: this is waited for, so that the data is there for all.
  const StreamHandle stream = makeStream();
  LAZULI_CUDA(cuMemcpyHtoDAsync, memory, data.data(), data.size(), stream.get());
  LAZULI_CUDA(cuStreamSynchronize, stream.get());
}

DeviceProgram::~DeviceProgram() {
  if (constants_) Driver::get().cuMemFree(reinterpret_cast<CUdeviceptr>(constants_));
}

bool DeviceProgram::isCapturable(const DeviceCommunicator* communicator) const {
  return wantsGraphs() && captures_ < kMostCaptures && (!communicator || communicator->isCapturable());
}

void DeviceProgram::run(Executable::Memory memory, Stream& stream, DeviceCommunicator* communicator,
                        std::vector<EventHandle>* marks) {
  memory.constants = constants_;
  if (communicator) communicator->open(stream);
  if (marks || !isCapturable(communicator)) {
    if (!marks) {
      for (Known& known : known_)
        if (known.graph) known.graph = {};
    }
    return put(memory, stream, communicator, marks);
  }
  std::vector<std::byte*> bases{memory.arena};
  bases.insert(bases.end(), memory.inputs.begin(), memory.inputs.end());
  bases.insert(bases.end(), memory.outputs.begin(), memory.outputs.end());
  for (auto known = known_.begin(); known != known_.end(); ++known) {
    if (known->bases != bases) continue;
    known_.splice(known_.begin(), known_, known);
    if (!known->graph) {
      known->graph = capture(memory, stream, communicator);
      captures_++;
    }
    LAZULI_CUDA(cuGraphLaunch, known->graph.get(), stream.handle());
    return;
  }
  known_.push_front({std::move(bases), {}});
  if (known_.size() > kMostKnown) known_.pop_back();
  put(memory, stream, communicator, nullptr);
}

GraphHandle DeviceProgram::capture(const Executable::Memory& memory, Stream& stream,
                                   DeviceCommunicator* communicator) const {
  // Relaxed: other threads of the process may ask the driver for what they like meanwhile.
  LAZULI_CUDA(cuStreamBeginCapture, stream.handle(), CU_STREAM_CAPTURE_MODE_RELAXED);
  CUgraph graph = nullptr;
  try {
    put(memory, stream, communicator, nullptr);
  } catch (...) {
    Driver::get().cuStreamEndCapture(stream.handle(), &graph);
    if (graph) Driver::get().cuGraphDestroy(graph);
    throw;
  }
  LAZULI_CUDA(cuStreamEndCapture, stream.handle(), &graph);
  CUgraphExec executable = nullptr;
  const CUresult made = Driver::get().cuGraphInstantiateWithFlags(&executable, graph, 0);
  Driver::get().cuGraphDestroy(graph);
  Driver::get().check(made, "cuGraphInstantiate");
  return GraphHandle(executable);
}

void DeviceProgram::put(const Executable::Memory& memory, Stream& stream, DeviceCommunicator* communicator,
                        std::vector<EventHandle>* marks) const {
  const auto mark = [&] {
    if (!marks) return;
    marks->push_back(makeEvent(true));
    LAZULI_CUDA(cuEventRecord, marks->back().get(), stream.handle());
  };
  const std::vector<Executable::Operands> operands = executable_.bind(memory);
  bool inJob = false;
  for (size_t s = 0; s < operands.size(); s++) {
    mark();
    const Executable::Operands& each = operands[s];
    const Step& step = executable_.step(s);
    const auto [job, isLast] = executable_.jobOf(s);
    stream.step = static_cast<uint32_t>(s);
    const bool starts = communicator && step.transfer == Transfer::start;
    if (starts && !inJob) communicator->beginJob(job);
    inJob = starts && !isLast;
    if (communicator && step.transfer == Transfer::done && job >= 0) communicator->waitFor(job);
    executable_.runKernel(
        s, {each.reads.data(), each.writes.data(), each.scratch, communicator, &stream, &stream});
    if (starts && isLast) communicator->endJob(job);
  }
  for (const Executable::Copy& copy : executable_.copies(memory)) stream.copy(copy.to, copy.from, copy.bytes);
  mark();
}

}  // namespace lazuli::cuda
