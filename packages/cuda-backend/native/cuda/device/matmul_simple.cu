#include "dtype.h"
#include "matmul_simple.h"

// Products that cuBLASLt does not take: of integers, and of operands that step in both directions. A block
// makes a tile of c; grid: tiles of n, tiles of m, batches.

namespace lazuli::cuda {

template <class T, class Out>
LAZULI_DEVICE void multiply(const MatmulSimpleArgs& args, Accumulator<T> (*aTile)[kMatmulSimpleTile],
                            Accumulator<T> (*bTile)[kMatmulSimpleTile + 1]) {
  using W = Accumulator<T>;
  constexpr int tile = kMatmulSimpleTile;
  const int column = static_cast<int>(threadIdx.x) % tile, row = static_cast<int>(threadIdx.x) / tile;
  const int64_t m = static_cast<int64_t>(blockIdx.y) * tile + row;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * tile + column;
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  int64_t index = blockIdx.z;
  for (int d = args.batchDims - 1; d >= 0; d--) {
    const int64_t at = index % args.batch[d];
    index /= args.batch[d];
    a += at * args.aBatch[d];
    b += at * args.bBatch[d];
  }
  W sum = 0;
  for (int64_t start = 0; start < args.k; start += tile) {
    const int64_t ka = start + column, kb = start + row;
    aTile[row][column] = m < args.m && ka < args.k ? load(a[m * args.aLine + ka * args.aDepth]) : W(0);
    bTile[row][column] = n < args.n && kb < args.k ? load(b[n * args.bLine + kb * args.bDepth]) : W(0);
    __syncthreads();
    for (int i = 0; i < tile; i++) sum += aTile[row][i] * bTile[i][column];
    __syncthreads();
  }
  if (m < args.m && n < args.n)
    store(static_cast<Out*>(args.c) + (static_cast<int64_t>(blockIdx.z) * args.m + m) * args.n + n, sum);
}

#define LAZULI_MATMUL_SIMPLE(name, T, Out)                                        \
  LAZULI_KERNEL(lazuli_matmul_simple_##name, MatmulSimpleArgs, 256) {             \
    LAZULI_SHARED Accumulator<T> aTile[kMatmulSimpleTile][kMatmulSimpleTile];     \
    LAZULI_SHARED Accumulator<T> bTile[kMatmulSimpleTile][kMatmulSimpleTile + 1]; \
    multiply<T, Out>(args, aTile, bTile);                                         \
  }
LAZULI_MATMUL_SIMPLE(f32_f32, float, float)
LAZULI_MATMUL_SIMPLE(f64_f64, double, double)
LAZULI_MATMUL_SIMPLE(bf16_bf16, BFloat16, BFloat16)
LAZULI_MATMUL_SIMPLE(f16_f16, Float16, Float16)
LAZULI_MATMUL_SIMPLE(bf16_f32, BFloat16, float)
LAZULI_MATMUL_SIMPLE(f16_f32, Float16, float)
LAZULI_MATMUL_SIMPLE(i32_i32, int32_t, int32_t)
LAZULI_MATMUL_SIMPLE(i64_i64, int64_t, int64_t)
LAZULI_MATMUL_SIMPLE(u8_u8, uint8_t, uint8_t)

}  // namespace lazuli::cuda
