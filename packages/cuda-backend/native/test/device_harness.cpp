#include "device_harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "parallel.h"

#if LAZULI_HAVE_CUDA
#include "cuda/driver.h"
#include "cuda/kernels.h"
#include "cuda/stream.h"
#endif

namespace lazuli::test {

bool onCuda() {
  static const bool chosen = [] {
    const char* device = std::getenv("LAZULI_TEST_DEVICE");
    return device && std::strcmp(device, "cuda") == 0;
  }();
#if LAZULI_HAVE_CUDA
  return chosen;
#else
  if (chosen)
    std::fputs("LAZULI_TEST_DEVICE=cuda, but the tests were built without CUDA\n", stderr), std::abort();
  return false;
#endif
}

namespace {

void runOnCpu(const MadeKernel& made, const std::vector<std::span<const std::byte>>& reads,
              const std::vector<std::span<std::byte>>& writes, std::pair<int, int> inPlace, Manner manner) {
  std::vector<const std::byte*> from;
  std::vector<std::byte*> to;
  for (const auto& read : reads) from.push_back(read.data());
  for (const auto& write : writes) to.push_back(write.data());
  if (inPlace.first >= 0) {
    const auto& shared = reads[inPlace.second];
    std::copy(shared.begin(), shared.end(), to[inPlace.first]);
    from[inPlace.second] = to[inPlace.first];
  }
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> scratch((made.scratchBytes + 63) / 64);
  for (Line& line : scratch) std::memset(line.bytes, 0xff, sizeof(line.bytes));
  const KernelArgs args{from.data(), to.data(), reinterpret_cast<std::byte*>(scratch.data())};
  if (manner == Manner::plain) return made.kernel->run(args);
  parallelRegion([&](int thread, int) {
    if (thread == 0) made.kernel->run(args);
  });
}

#if LAZULI_HAVE_CUDA

/// The first GPU, for the whole process.
class Gpu {
 public:
  Gpu() {
    CUcontext context = nullptr;
    CUstream stream = nullptr;
    LAZULI_CUDA(cuDevicePrimaryCtxRetain, &context, 0);
    LAZULI_CUDA(cuCtxSetCurrent, context);
    LAZULI_CUDA(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
    cuda::Target target;
    const auto read = [](int& value, CUdevice_attribute attribute) {
      LAZULI_CUDA(cuDeviceGetAttribute, &value, attribute, 0);
    };
    read(target.major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    read(target.minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    read(target.multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    read(target.sharedPerBlock, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    CUdeviceptr fault = 0;
    LAZULI_CUDA(cuMemAlloc, &fault, sizeof(cuda::Fault));
    stream_ = std::make_unique<cuda::Stream>(stream, target, reinterpret_cast<cuda::Fault*>(fault));
  }
  static Gpu& get() {
    static Gpu gpu;
    return gpu;
  }

  const cuda::Target& target() const { return stream_->target(); }

  void run(const MadeKernel& made, const std::vector<std::span<const std::byte>>& reads,
           const std::vector<std::span<std::byte>>& writes, std::pair<int, int> inPlace, Manner manner) {
    const CUstream stream = stream_->handle();
    std::vector<Buffer> buffers;
    std::vector<const std::byte*> from;
    std::vector<std::byte*> to;
    for (const auto& read : reads) {
      buffers.emplace_back(read.size());
      if (!read.empty())
        LAZULI_CUDA(cuMemcpyHtoDAsync, buffers.back().address, read.data(), read.size(), stream);
      from.push_back(buffers.back().bytes());
    }
    for (size_t i = 0; i < writes.size(); ++i) {
      if (static_cast<int>(i) == inPlace.first) {
        to.push_back(const_cast<std::byte*>(from[inPlace.second]));
        continue;
      }
      buffers.emplace_back(writes[i].size());
      // Undefined before, and not what the host's has: a kernel must write all of it.
      LAZULI_CUDA(cuMemsetD8Async, buffers.back().address, 0xcd, buffers.back().size, stream);
      to.push_back(buffers.back().bytes());
    }
    buffers.emplace_back(made.scratchBytes);
    LAZULI_CUDA(cuMemsetD8Async, buffers.back().address, 0xff, buffers.back().size, stream);
    const CUdeviceptr faultAt = reinterpret_cast<CUdeviceptr>(stream_->fault());
    LAZULI_CUDA(cuMemsetD8Async, faultAt, 0, sizeof(cuda::Fault), stream);

    KernelArgs args{from.data(), to.data(), buffers.back().bytes()};
    args.stream = stream_.get();
    if (manner == Manner::plain)
      made.kernel->run(args);
    else
      runCaptured(*made.kernel, args);

    for (size_t i = 0; i < writes.size(); ++i) {
      if (!writes[i].empty())
        LAZULI_CUDA(cuMemcpyDtoHAsync, writes[i].data(), reinterpret_cast<CUdeviceptr>(to[i]),
                    writes[i].size(), stream);
    }
    cuda::Fault fault;
    LAZULI_CUDA(cuMemcpyDtoHAsync, &fault, faultAt, sizeof fault, stream);
    LAZULI_CUDA(cuStreamSynchronize, stream);
    if (fault.set) throw ProgramError(made.kernel->faultText(fault));
  }

 private:
  struct Buffer {
    CUdeviceptr address = 0;
    size_t size;

    explicit Buffer(size_t bytes) : size(bytes ? bytes : 1) { LAZULI_CUDA(cuMemAlloc, &address, size); }
    Buffer(Buffer&& other) noexcept : address(std::exchange(other.address, 0)), size(other.size) {}
    ~Buffer() {
      // A write past its end is found here, by the emulator.
      if (address && cuda::Driver::get().cuMemFree(address) == CUDA_ERROR_ILLEGAL_ADDRESS) std::abort();
    }
    std::byte* bytes() const { return reinterpret_cast<std::byte*>(address); }
  };

  void runCaptured(const Kernel& kernel, const KernelArgs& args) {
    const CUstream stream = stream_->handle();
    CUgraph graph = nullptr;
    CUgraphExec executable = nullptr;
    LAZULI_CUDA(cuStreamBeginCapture, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    kernel.run(args);
    LAZULI_CUDA(cuStreamEndCapture, stream, &graph);
    LAZULI_CUDA(cuGraphInstantiateWithFlags, &executable, graph, 0);
    setenv("LAZULI_SIMT_ORDER", "reverse", 1);
    const CUresult launched = cuda::Driver::get().cuGraphLaunch(executable, stream);
    unsetenv("LAZULI_SIMT_ORDER");
    cuda::Driver::get().check(launched, "cuGraphLaunch");
    LAZULI_CUDA(cuStreamSynchronize, stream);
    LAZULI_CUDA(cuGraphExecDestroy, executable);
    LAZULI_CUDA(cuGraphDestroy, graph);
  }

  std::unique_ptr<cuda::Stream> stream_;
};

#endif

}  // namespace

#if LAZULI_HAVE_CUDA
const cuda::Target& deviceTarget() { return Gpu::get().target(); }

bool isEmulated() {
  char name[256] = "";
  LAZULI_CUDA(cuDeviceGetName, name, sizeof name, 0);
  return std::strncmp(name, "emulated", 8) == 0;
}
#endif

Layout ordered(const TensorType& type, const std::vector<size_t>& order) {
  Layout layout = Layout::dense(type);
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0; stride *= type.shape[order[i]]) layout.strides[order[i]] = stride;
  return layout;
}

namespace {
/// Calls `visit` with where each element lies, in bytes: row-major and in the layout.
template <class Visit>
void eachElement(const Layout& layout, const Visit& visit) {
  const int64_t size = static_cast<int64_t>(sizeBytes(layout.dtype));
  for (int64_t i = 0; i < layout.elements(); ++i) {
    int64_t at = layout.offset, rest = i;
    for (size_t dim = layout.shape.size(); dim-- > 0; rest /= layout.shape[dim])
      at += rest % layout.shape[dim] * layout.strides[dim];
    visit(i * size, at * size, static_cast<size_t>(size));
  }
}
}  // namespace

std::vector<std::byte> toDense(std::span<const std::byte> bytes, const Layout& layout) {
  std::vector<std::byte> dense(bytes.size());
  eachElement(layout, [&](int64_t i, int64_t at, size_t size) {
    std::memcpy(dense.data() + i, bytes.data() + at, size);
  });
  return dense;
}

std::vector<std::byte> fromDense(std::span<const std::byte> bytes, const Layout& layout) {
  std::vector<std::byte> laid(bytes.size());
  eachElement(layout, [&](int64_t i, int64_t at, size_t size) {
    std::memcpy(laid.data() + at, bytes.data() + i, size);
  });
  return laid;
}

TestedEntry entryOf(Op op) {
#if LAZULI_HAVE_CUDA
  if (onCuda()) {
    if (const KernelEntry* entry = cuda::findKernel(op)) return {*entry, true};
    static std::set<Op> said;
    if (said.insert(op).second) std::fprintf(stderr, "no CUDA kernel of %s: the CPU's is tested\n", name(op));
  }
#endif
  return {*findKernel(op), false};
}

void runMade([[maybe_unused]] bool cuda, const MadeKernel& made,
             const std::vector<std::span<const std::byte>>& reads,
             const std::vector<std::span<std::byte>>& writes, std::pair<int, int> inPlace, Manner manner) {
#if LAZULI_HAVE_CUDA
  if (cuda) return Gpu::get().run(made, reads, writes, inPlace, manner);
#endif
  runOnCpu(made, reads, writes, inPlace, manner);
}

}  // namespace lazuli::test
