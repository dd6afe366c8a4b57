// The emulator of test/simt: CUDA kernels on the host, behind the driver's and NVRTC's functions.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cuda/device/fill.h"
#include "cuda_emulator.h"

namespace lazuli {
namespace {

using test::Emulator;

struct Graph {
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
};

TEST(CudaSimt, BuiltinKernelFillsMemory) {
  Emulator emulator;
  auto* memory = emulator.allocate<unsigned long long>(1000);
  const CUkernel fill = emulator.kernel({'f', 'a', 't', 'b', 'i', 'n', 0, 0, 0}, "lazuli_fill");
  const cuda::FillArgs args{memory, 999, 7};
  EXPECT_EQ(emulator.launch(fill, 2, 256, &args), CUDA_SUCCESS);
  const auto values = emulator.read(memory, 1000);
  for (size_t i = 0; i < 999; ++i) ASSERT_EQ(values[i], 0x700000007ull);
  EXPECT_EQ(values[999], ~0ull);
  emulator.free(memory);
}

TEST(CudaSimt, WarpFunctions) {
  Emulator emulator;
  const auto xorSums = emulator.run(R"(
    int sum = threadIdx.x;
    for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    args.out[threadIdx.x] = sum;)",
                                    96);
  for (int i = 0; i < 96; ++i) EXPECT_EQ(xorSums[i], i / 32 * 32 * 32 + 496);
  const auto others = emulator.run(R"(
    const int i = threadIdx.x;
    const int up = __shfl_up_sync(~0u, i, 1), down = __shfl_down_sync(~0u, i, 2, 8), from = __shfl_sync(~0u, i, 3, 16);
    const unsigned odd = __ballot_sync(~0u, i & 1);
    const double wide = __shfl_sync(~0u, i + 0.5, 31);
    const bool fine = up == (i % 32 ? i - 1 : i) && down == (i % 8 < 6 ? i + 2 : i) && from == i / 16 * 16 + 3 &&
                      odd == 0xaaaaaaaau && wide == i / 32 * 32 + 31.5 && __any_sync(~0u, i % 32 == 5) &&
                      !__all_sync(~0u, i % 32 == 5) && __reduce_max_sync(~0u, i) == i / 32 * 32 + 31 &&
                      __match_any_sync(~0u, i & 3) == 0x11111111u << (i & 3);
    // Half of the warp alone.
    int half = i;
    if (i & 1) half = __shfl_xor_sync(0xaaaaaaaau, i, 2);
    args.out[i] = fine ? half : -1;)",
                                   64);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(others[i], i & 1 ? i ^ 2 : i);
}

TEST(CudaSimt, SharedMemoryAndBarriers) {
  Emulator emulator;
  for (const char* order : {"forward", "reverse"}) {
    setenv("LAZULI_SIMT_ORDER", order, 1);
    const auto values = emulator.run(R"(
      LAZULI_SHARED int tile[THREE][64 * FOUR];
      LAZULI_DYNAMIC_SHARED(bytes);
      int* counts = reinterpret_cast<int*>(bytes);
      const int i = threadIdx.x, fresh = tile[0][i];
      tile[1][i] = i;
      counts[i] = 1;
      __syncthreads();
      const int other = tile[1][255 - i];
      for (int step = 128; step; step /= 2) {
        if (i < step) counts[i] += counts[i + step];
        __syncthreads();
      }
      args.out[i] = fresh == -1 && __syncthreads_count(i < 10) == 10 ? other * 1000 + counts[0] : -1;)",
                                     256, 1024);
    for (int i = 0; i < 256; ++i) ASSERT_EQ(values[i], (255 - i) * 1000 + 256);
  }
  unsetenv("LAZULI_SIMT_ORDER");
}

TEST(CudaSimt, ManyBlocks) {
  Emulator emulator;
  const CUkernel kernel = emulator.kernel(emulator.compile(R"(
      struct Args { int* out; };
      LAZULI_KERNEL(lazuli_count, Args, 128) { atomicAdd(args.out, 1); }
  )"),
                                          "lazuli_count");
  int* out = emulator.allocate<int>(1);
  emulator.cuMemsetD32Async(reinterpret_cast<CUdeviceptr>(out), 0, 1, emulator.stream);
  EXPECT_EQ(emulator.launch(kernel, 3000, 128, &out), CUDA_SUCCESS);
  EXPECT_EQ(emulator.read(out, 1)[0], 3000 * 128);
  emulator.free(out);
}

/// The kernel fails, and the driver says so at the next synchronisation and from then on.
void expectFault(const std::string& body, const std::string& text) {
  Emulator emulator;
  emulator.run(body, 64);
  EXPECT_EQ(emulator.cuStreamSynchronize(emulator.stream), CUDA_ERROR_LAUNCH_FAILED);
  CUdeviceptr address = 0;
  EXPECT_EQ(emulator.cuMemAlloc(&address, 8), CUDA_ERROR_LAUNCH_FAILED);
  EXPECT_NE(std::string(emulator.fault()).find(text), std::string::npos) << emulator.fault();
}

TEST(CudaSimt, FaultsAreFound) {
  expectFault("if (threadIdx.x != 7) __syncthreads();", "1 threads have ended, the first is thread 7");
  expectFault("if (threadIdx.x == 7) return;\n__syncwarp();", "lanes that have ended");
  expectFault("__shfl_sync(threadIdx.x ? 0xfffffffeu : 0xfu, 1, 0);", "while other lanes of the warp");
  expectFault("if (threadIdx.x & 1) __syncwarp(); else __ballot_sync(~0u, 1);",
              "while other lanes of the warp");
  // Between the heap and where memory is mapped, whatever else this process has mapped.
  expectFault("args.out[static_cast<long long>(threadIdx.x) - (1ll << 43)] = 1;", "memory fault at address");
  expectFault("LAZULI_SHARED int x[64]; x[threadIdx.x + args.out[0] + 2] = 1;", "out of the array's bounds");
  expectFault("*reinterpret_cast<int4*>(args.out + threadIdx.x) = int4{};", "not aligned to 16 bytes");
  expectFault("LAZULI_DYNAMIC_SHARED(bytes); bytes[threadIdx.x] = 1;", "dynamic shared memory");
  expectFault("volatile char big[1 << 20]; big[threadIdx.x] = 1; args.out[0] = big[5];", "memory fault");
}

TEST(CudaSimt, AWriteJustPastAnAllocationIsFound) {
  Emulator emulator;
  auto* memory = emulator.allocate<unsigned long long>(3);
  const CUkernel fill = emulator.kernel({'f', 'a', 't', 'b', 'i', 'n', 0, 0, 0}, "lazuli_fill");
  const cuda::FillArgs args{memory, 4, 7};
  emulator.launch(fill, 1, 256, &args);
  EXPECT_EQ(emulator.cuMemFree(reinterpret_cast<CUdeviceptr>(memory)), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(CudaSimt, LaunchesThatCudaRefuses) {
  Emulator emulator;
  const CUkernel fill = emulator.kernel({'f', 'a', 't', 'b', 'i', 'n', 0, 0, 0}, "lazuli_fill");
  const cuda::FillArgs args{nullptr, 0, 0};
  EXPECT_EQ(emulator.launch(fill, 1, 512, &args), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
  EXPECT_EQ(emulator.launch(fill, 0, 256, &args), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(emulator.launch(fill, 1, 256, &args, 49 * 1024), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(
      emulator.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 164 * 1024, fill, 0),
      CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(
      emulator.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 163 * 1024, fill, 0),
      CUDA_SUCCESS);
  EXPECT_EQ(emulator.launch(fill, 1, 256, &args, 163 * 1024), CUDA_SUCCESS);
  CUkernel none = nullptr;
  CUlibrary library = nullptr;
  const char image[16] = {};
  emulator.cuLibraryLoadData(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
  EXPECT_EQ(emulator.cuLibraryGetKernel(&none, library, "lazuli_no_such"), CUDA_ERROR_NOT_FOUND);
}

TEST(CudaSimt, OutOfMemory) {
  Emulator emulator;
  setenv("LAZULI_SIMT_MEMORY", "1000000", 1);
  CUdeviceptr first = 0, second = 0;
  size_t free = 0, total = 0;
  EXPECT_EQ(emulator.cuMemAlloc(&first, 600000), CUDA_SUCCESS);
  EXPECT_EQ(emulator.cuMemAlloc(&second, 600000), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(emulator.cuMemGetInfo(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, 1000000u);
  EXPECT_LE(free, 400000u);
  EXPECT_EQ(emulator.cuMemFree(first), CUDA_SUCCESS);
  EXPECT_EQ(emulator.cuMemAlloc(&second, 600000), CUDA_SUCCESS);
  EXPECT_EQ(emulator.cuMemFree(second), CUDA_SUCCESS);
  EXPECT_EQ(emulator.cuMemFree(second), CUDA_ERROR_INVALID_VALUE);
  unsetenv("LAZULI_SIMT_MEMORY");
}

TEST(CudaSimt, GraphsAreRecordedNotRun) {
  Emulator emulator;
  auto* memory = emulator.allocate<unsigned long long>(8);
  const auto address = reinterpret_cast<CUdeviceptr>(memory);
  const CUkernel fill = emulator.kernel({'f', 'a', 't', 'b', 'i', 'n', 0, 0, 0}, "lazuli_fill");
  CUstream other = nullptr;
  CUevent forked = nullptr, joined = nullptr;
  emulator.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING);
  emulator.cuEventCreate(&forked, CU_EVENT_DISABLE_TIMING);
  emulator.cuEventCreate(&joined, CU_EVENT_DISABLE_TIMING);
  emulator.cuMemsetD8Async(address, 0, 64, emulator.stream);

  EXPECT_EQ(emulator.cuStreamBeginCapture(emulator.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
            CUDA_SUCCESS);
  cuda::FillArgs args{memory, 4, 7};
  EXPECT_EQ(emulator.launch(fill, 1, 256, &args), CUDA_SUCCESS);
  args.pattern = 8;  // the launch keeps what it was given
  emulator.cuEventRecord(forked, emulator.stream);
  emulator.cuStreamWaitEvent(other, forked, 0);
  EXPECT_EQ(emulator.cuMemcpyDtoDAsync(address + 32, address, 32, other), CUDA_SUCCESS);
  emulator.cuEventRecord(joined, other);
  emulator.cuStreamWaitEvent(emulator.stream, joined, 0);
  Graph graph;
  EXPECT_EQ(emulator.cuStreamEndCapture(emulator.stream, &graph.graph), CUDA_SUCCESS);
  EXPECT_EQ(emulator.read(memory, 8), std::vector<unsigned long long>(8, 0));

  EXPECT_EQ(emulator.cuGraphInstantiateWithFlags(&graph.executable, graph.graph, 0), CUDA_SUCCESS);
  emulator.cuGraphDestroy(graph.graph);
  for (int i = 0; i < 2; ++i) {
    emulator.cuMemsetD8Async(address, 0, 64, emulator.stream);
    EXPECT_EQ(emulator.cuGraphLaunch(graph.executable, emulator.stream), CUDA_SUCCESS);
    EXPECT_EQ(emulator.read(memory, 8), std::vector<unsigned long long>(8, 0x700000007ull));
  }

  // What cannot be in a graph breaks it.
  EXPECT_EQ(emulator.cuStreamBeginCapture(emulator.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
            CUDA_SUCCESS);
  EXPECT_EQ(emulator.cuStreamSynchronize(emulator.stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(emulator.cuStreamEndCapture(emulator.stream, &graph.graph),
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  emulator.cuGraphExecDestroy(graph.executable);
  emulator.cuEventDestroy(forked);
  emulator.cuEventDestroy(joined);
  emulator.cuStreamDestroy(other);
  emulator.free(memory);
}

TEST(CudaSimt, CompileErrorsAreInTheLog) {
  Emulator emulator;
  std::string log;
  EXPECT_TRUE(emulator.compile("int x = no_such_thing;", &log).empty());
  EXPECT_NE(log.find("test.cu:3"), std::string::npos) << log;
  EXPECT_NE(log.find("no_such_thing"), std::string::npos) << log;
}

}  // namespace
}  // namespace lazuli
