// Which of cuBLASLt's algorithms a product runs by, on the emulator's stand-in, which counts
// (test/simt/cublaslt.cpp).

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda/gpu.h"
#include "cuda/handles.h"
#include "cuda/matmul_choice.h"
#include "cuda/matmul_lt.h"
#include "device_harness.h"

namespace lazuli::test {
namespace {

using cuda::LtMatmul;

class CudaMatmul : public testing::Test {
 protected:
  void SetUp() override {
    if (!onCuda()) GTEST_SKIP() << "needs LAZULI_TEST_DEVICE=cuda";
    const auto* multiply = reinterpret_cast<void*>(cuda::CublasLt::get().cublasLtMatmul);
    void* emulator = dlopen(LAZULI_SIMT_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
    if (!emulator || dlsym(emulator, "cublasLtMatmul") != multiply) GTEST_SKIP() << "needs the emulator";
    asked = reinterpret_cast<int (*)()>(dlsym(emulator, "lazuliSimtHeuristics"));
    last = reinterpret_cast<int (*)()>(dlsym(emulator, "lazuliSimtAlgorithm"));
    cuda::Gpu::open(0).makeCurrent();
    handle = cuda::makeStream();
    stream = std::make_unique<cuda::Stream>(handle.get(), cuda::Gpu::open(0).target(), nullptr);
    LAZULI_CUDA(cuMemAlloc, &memory, kBytes);
  }
  void TearDown() override {
    if (memory) LAZULI_CUDA(cuMemFree, memory);
  }

  /// a [m, 4] of ones by b [4, 4] of ones, into and onto `addend`: what its first element is.
  float product(int64_t m, bool addend) {
    MatmulShape shape;
    shape.m = m;
    shape.n = shape.k = 4;
    setDense(shape.a, {}, m, 4);
    setDense(shape.b, {}, 4, 4);
    const LtMatmul matmul(shape, DType::f32, DType::f32, {false, Activation::none, addend});
    EXPECT_LE(matmul.workspaceBytes(), kBytes / 2);
    const float one = 1;
    uint32_t bits;
    std::memcpy(&bits, &one, sizeof bits);
    LAZULI_CUDA(cuMemsetD32Async, memory, bits, 3 * 1024, stream->handle());
    auto* base = reinterpret_cast<std::byte*>(memory);
    std::byte* out = base + 8192;
    matmul.run(base, base + 4096, nullptr, addend ? out : nullptr, out, base + kBytes / 2, *stream);
    float value = 0;
    LAZULI_CUDA(cuMemcpyDtoHAsync, &value, memory + 8192, sizeof value, stream->handle());
    LAZULI_CUDA(cuStreamSynchronize, stream->handle());
    return value;
  }

  static constexpr size_t kBytes = size_t{1} << 20;
  CUdeviceptr memory = 0;
  int (*asked)() = nullptr;
  int (*last)() = nullptr;
  cuda::StreamHandle handle;
  std::unique_ptr<cuda::Stream> stream;
};

TEST_F(CudaMatmul, TheChoiceIsMadeOnceAProcess) {
  const int before = asked();
  EXPECT_EQ(product(8, false), 4);
  EXPECT_EQ(product(8, false), 4);
  EXPECT_EQ(asked(), before + 1);
  EXPECT_EQ(product(12, false), 4);
  EXPECT_EQ(product(8, true), 5);  // another epilogue
  EXPECT_EQ(asked(), before + 3);
}

TEST_F(CudaMatmul, TheFastestIsTakenAndWhatCannotIsLeftOut) {
  setenv("LAZULI_CUDA_MATMUL", "timed", 1);
  setenv("LAZULI_SIMT_SLOW", "0", 1);
  // Timed in memory of its own: the addend, which is where the result goes, is added once.
  EXPECT_EQ(product(20, true), 5);
  unsetenv("LAZULI_SIMT_SLOW");
  EXPECT_EQ(last(), 2);
  setenv("LAZULI_SIMT_SLOW", "2", 1);
  EXPECT_EQ(product(24, false), 4);
  unsetenv("LAZULI_SIMT_SLOW");
  EXPECT_EQ(last(), 0);
  setenv("LAZULI_CUDA_MATMUL", "quickly", 1);
  EXPECT_THROW(product(28, false), cuda::CudaError);
  unsetenv("LAZULI_CUDA_MATMUL");
}

}  // namespace
}  // namespace lazuli::test
