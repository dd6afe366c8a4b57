// Hopper's instructions in the emulator: where bulk copies put elements and where products find them, by the
// figures of the PTX ISA (9.7.15.5.1.2 and 5.5.6), and that what is done too early or not at all shows.

#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda/device/attention.h"
#include "cuda_emulator.h"

namespace lazuli {
namespace {

using test::Emulator;

// A warpgroup multiplies a [64, 16] and b [16, 64], stored as `kSpan` bytes a row, K-major or by rows.
constexpr const char* kProduct = R"(
#include "cuda/device/ptx_sm90.h"
using namespace lazuli::cuda;
struct Args { int* out; };

// Row r of 8 has its 16-byte units permuted by r, r / 2 or r / 4.
inline int permuted(int row, int span) { return row % 8 / (128 / span); }
inline int alongK(int row, int k, int span) {
  return row * span + ((k / 8) ^ permuted(row, span)) * 16 + k % 8 * 2;
}
inline int acrossK(int row, int k, int span) {
  return row / (span / 2) * 16 * span + k * span + ((row % (span / 2) / 8) ^ permuted(k, span)) * 16 + row % 8 * 2;
}
inline uint64_t describe(int address, int span, int leading, int stride) {
  const uint64_t mode = span == 128 ? 1 : span == 64 ? 2 : 3;
  return static_cast<uint64_t>(address / 16) | static_cast<uint64_t>(leading / 16) << 16 |
         static_cast<uint64_t>(stride / 16) << 32 | mode << 62;
}
inline float left(int row, int k) { return (row * 3 + k * 5) % 7 - 3; }
inline float right(int k, int column) { return (column + 2 * k * k) % 5 - 2; }

LAZULI_KERNEL(lazuli_test, Args, 128) {
  LAZULI_DYNAMIC_SHARED(bytes);
  const int t = static_cast<int>(threadIdx.x), base = 1024;
  int wrong = 0;
  for (int span = 128; span >= 32; span /= 2)
    for (int kind = 0; kind < 4; ++kind) {
      const bool leftRows = kind & 1, rightRows = kind & 2;
      for (int i = t; i < 64 * 16; i += 128) {
        const int row = i / 16, k = i % 16;
        store(reinterpret_cast<BFloat16*>(bytes + (leftRows ? acrossK : alongK)(row, k, span)), left(row, k));
        store(reinterpret_cast<BFloat16*>(bytes + 8192 + (rightRows ? acrossK : alongK)(row, k, span)),
              right(k, row));
      }
      PUBLISH;
      __syncthreads();
      float d[8][4];
      for (auto& each : d)
        for (float& x : each) x = 100;
      FENCE;
      const uint64_t a = describe(base, span, 16 * span, 8 * span);
      const uint64_t b = describe(base + 8192, span, 16 * span, 8 * span);
      const bool adds = span != 64;
      lazuli::simt::wgmmaShared(d[0], 64, a, b, leftRows, rightRows, adds, true, __LINE__);
      endProducts();
      awaitProducts<GROUPS>(d);
      for (int n = 0; n < 8; ++n)
        for (int c = 0; c < 4; ++c) {
          const int row = t / 32 * 16 + t % 32 / 4 + c / 2 * 8, column = n * 8 + t % 4 * 2 + c % 2;
          float sum = adds ? 100 : 0;
          for (int k = 0; k < 16; ++k) sum += left(row, k) * right(k, column);
          wrong += !(d[n][c] == sum);
        }
      awaitProducts<0>(d);
      __syncthreads();
    }
  args.out[t] = wrong;
}
)";

std::vector<int> multiply(Emulator& emulator, const char* fence, const char* publish, const char* groups) {
  const std::string source = std::string("#define FENCE ") + fence + "\n#define PUBLISH " + publish +
                             "\n#define GROUPS " + groups + "\n" + kProduct;
  const CUkernel kernel = emulator.kernel(emulator.compile(source), "lazuli_test");
  int* out = emulator.allocate<int>(128);
  EXPECT_EQ(emulator.launch(kernel, 1, 128, &out, 32768), CUDA_SUCCESS);
  std::vector<int> values(128, -1);
  if (emulator.cuStreamSynchronize(emulator.stream) == CUDA_SUCCESS) values = emulator.read(out, 128);
  emulator.cuMemFree(reinterpret_cast<CUdeviceptr>(out));
  return values;
}

TEST(CudaSimtSm90, ProductsFindTheirElements) {
  Emulator emulator;
  EXPECT_EQ(multiply(emulator, "beginProducts()", "publishStores()", "0"), std::vector<int>(128, 0));
}

TEST(CudaSimtSm90, WhatIsLeftOutShows) {
  Emulator emulator;
  // 12 products of 32 elements each, none of which is there yet.
  EXPECT_EQ(multiply(emulator, "beginProducts()", "publishStores()", "1"), std::vector<int>(128, 12 * 32));
  // Stores that products do not see.
  for (int wrong : multiply(emulator, "beginProducts()", "", "0")) EXPECT_GT(wrong, 0);
  multiply(emulator, "", "publishStores()", "0");
  EXPECT_NE(std::string(emulator.fault()).find("no wgmma.fence"), std::string::npos) << emulator.fault();
}

// A box of 64 rows and `SPAN` bytes each, which begins before the last rows and columns of the tensor.
constexpr const char* kCopy = R"(
#include "cuda/device/ptx_sm90.h"
using namespace lazuli::cuda;
struct Args { TensorMap map; int* out; };
LAZULI_KERNEL(lazuli_test, Args, 64) {
  LAZULI_DYNAMIC_SHARED(bytes);
  Barrier* barrier = reinterpret_cast<Barrier*>(bytes + 16384);
  const int row = static_cast<int>(threadIdx.x);
  if (row == 0) {
    initBarrier(barrier, 1);
    publishBarriers();
  }
  __syncthreads();
  if (row == 0) {
    arriveExpecting(barrier, 64 * SPAN);
    loadBox(bytes + PLACE, args.map, barrier, 16, 30, 1, 2);
  }
  waitFor(barrier, 0);
  int wrong = 0;
  for (int column = 0; column < SPAN / 2; ++column) {
    const int unit = (column / 8) ^ (row % 8 / (128 / SPAN));
    const int found = *reinterpret_cast<unsigned short*>(bytes + PLACE + row * SPAN + unit * 16 + column % 8 * 2);
    const int r = 30 + row, c = 16 + column;
    wrong += found != (r < 80 && c < 72 ? ((2 * 2 + 1) * 80 + r) * 72 + c & 0xffff : 0);
  }
  args.out[row] = wrong;
}
)";

TEST(CudaSimtSm90, BulkCopies) {
  struct Args {
    cuda::TensorMap map;
    int* out;
  };
  for (const char* order : {"forward", "reverse"})
    for (unsigned span : {128u, 64u, 32u}) {
      setenv("LAZULI_SIMT_ORDER", order, 1);
      Emulator emulator;
      // [batch 3, head 2, row 80, column 72], numbered.
      std::vector<uint16_t> numbers(3 * 2 * 80 * 72);
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<uint16_t>(i);
      auto* tensor = emulator.allocate<uint16_t>(numbers.size());
      emulator.cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(tensor), numbers.data(), numbers.size() * 2,
                                 emulator.stream);
      Args args{{}, emulator.allocate<int>(64)};
      const cuuint64_t sizes[] = {72, 80, 2, 3}, strides[] = {144, 144 * 80, 144 * 160};
      const cuuint32_t box[] = {span / 2, 64, 1, 1}, steps[] = {1, 1, 1, 1};
      const auto encode = [&](void* address) {
        return emulator.cuTensorMapEncodeTiled(
            reinterpret_cast<CUtensorMap*>(&args.map), CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, address, sizes,
            strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
            span == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
            : span == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                         : CU_TENSOR_MAP_SWIZZLE_32B,
            CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
      };
      EXPECT_EQ(encode(tensor + 1), CUDA_ERROR_INVALID_VALUE);
      EXPECT_EQ(encode(tensor), CUDA_SUCCESS);
      const auto compile = [&](const char* place) {
        return emulator.kernel(emulator.compile("#define SPAN " + std::to_string(span) + "\n#define PLACE " +
                                                place + "\n" + kCopy),
                               "lazuli_test");
      };
      EXPECT_EQ(emulator.launch(compile("1024"), 1, 64, &args, 16384 + 8), CUDA_SUCCESS);
      EXPECT_EQ(emulator.read(args.out, 64), std::vector<int>(64, 0)) << span;
      emulator.free(tensor);
      emulator.free(args.out);
      if (span != 128 || order != std::string("forward")) continue;
      emulator.launch(compile("128"), 1, 64, &args, 16384 + 8);
      EXPECT_NE(std::string(emulator.fault()).find("not a multiple of 1024"), std::string::npos)
          << emulator.fault();
    }
  unsetenv("LAZULI_SIMT_ORDER");
}

}  // namespace
}  // namespace lazuli
