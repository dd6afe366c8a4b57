#include "cuda_nccl.h"

#include <gtest/gtest.h>

#include <thread>

#include "collectives/local.h"
#include "cuda/gpu.h"
#include "cuda/handles.h"
#include "cuda/nccl_communicator.h"

namespace lazuli::test {
namespace {

using cuda::NcclCommunicator;
using cuda::Stream;

CUdeviceptr address(const std::byte* memory) { return reinterpret_cast<CUdeviceptr>(memory); }

struct Memory {
  CUdeviceptr at = 0;
  explicit Memory(size_t bytes) { LAZULI_CUDA(cuMemAlloc, &at, std::max<size_t>(bytes, 1)); }
  ~Memory() { cuda::Driver::get().cuMemFree(at); }
  std::byte* bytes() const { return reinterpret_cast<std::byte*>(at); }
};

}  // namespace

bool hasNccl(int devices) {
  try {
    cuda::Nccl::get();
    return cuda::Gpu::count() >= devices;
  } catch (const cuda::CudaError&) {
    return false;
  }
}

void everywhereByNccl(int devices, double timeoutSeconds,
                      const std::function<void(int, NcclCommunicator&, Stream&)>& body) {
  ncclUniqueId id;
  LAZULI_NCCL(ncclGetUniqueId, &id);
  LocalMesh host(devices, std::chrono::milliseconds(60000));
  std::vector<std::thread> threads;
  for (int device = 0; device < devices; device++) {
    threads.emplace_back([&, device] {
      const cuda::Gpu& gpu = cuda::Gpu::open(device);
      gpu.makeCurrent();
      const cuda::StreamHandle handle = cuda::makeStream();
      Stream stream(handle.get(), gpu.target(), nullptr);
      NcclCommunicator communicator(gpu, host.communicator(device), devices, id, timeoutSeconds);
      communicator.open(stream);
      body(device, communicator, stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void runByNccl(const MadeKernel& made, const std::vector<std::span<const std::byte>>& reads,
               const std::vector<std::span<std::byte>>& writes, bool inPlace) {
  const int devices = static_cast<int>(writes.size());
  everywhereByNccl(devices, 60, [&](int device, NcclCommunicator& communicator, Stream& stream) {
    const auto d = static_cast<size_t>(device);
    const std::span<const std::byte> given = reads.empty() ? std::span<const std::byte>() : reads[d];
    const Memory from(given.size()), to(writes[d].size());
    const std::byte* read = inPlace ? to.bytes() : from.bytes();
    std::byte* write = to.bytes();
    KernelArgs args{&read, &write, nullptr, &communicator, &stream, &stream};
    const auto run = [&](bool isJob) {
      if (!isJob || !made.communicates) return made.kernel->run(args);
      communicator.beginJob(0);
      made.kernel->run(args);
      communicator.endJob(0);
      communicator.waitFor(0);
    };
    for (int round = 0; round < 3; round++) {
      communicator.open(stream);
      LAZULI_CUDA(cuMemsetD8Async, to.at, 0xcd, std::max<size_t>(writes[d].size(), 1), stream.handle());
      if (!given.empty())
        LAZULI_CUDA(cuMemcpyHtoDAsync, address(read), given.data(), given.size(), stream.handle());
      if (round < 2) {
        run(round == 1);
      } else {
        CUgraph graph = nullptr;
        CUgraphExec executable = nullptr;
        LAZULI_CUDA(cuStreamBeginCapture, stream.handle(), CU_STREAM_CAPTURE_MODE_RELAXED);
        run(true);
        LAZULI_CUDA(cuStreamEndCapture, stream.handle(), &graph);
        LAZULI_CUDA(cuGraphInstantiateWithFlags, &executable, graph, 0);
        LAZULI_CUDA(cuGraphLaunch, executable, stream.handle());
        LAZULI_CUDA(cuStreamSynchronize, stream.handle());
        LAZULI_CUDA(cuGraphExecDestroy, executable);
        LAZULI_CUDA(cuGraphDestroy, graph);
      }
      LAZULI_CUDA(cuMemcpyDtoHAsync, writes[d].data(), to.at, writes[d].size(), stream.handle());
      LAZULI_CUDA(cuStreamSynchronize, stream.handle());
      EXPECT_EQ(communicator.trouble(0), "");
    }
  });
}

}  // namespace lazuli::test
