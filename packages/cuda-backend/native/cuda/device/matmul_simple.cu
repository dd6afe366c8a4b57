#include "matmul_simple.h"
#include "simt.h"

// Products that cuBLASLt does not take: of integers, and of operands that step in both directions. A block
// makes a tile of c; grid: tiles of n, tiles of m, batches.

namespace lazuli::cuda {

struct Bf16Bits {
  uint16_t bits;
};
struct F16Bits {
  uint16_t bits;
};

template <class T>
struct Wide {
  using Type = T;
};
template <>
struct Wide<Bf16Bits> {
  using Type = float;
};
template <>
struct Wide<F16Bits> {
  using Type = float;
};
// Integers wrap: in unsigned arithmetic.
template <>
struct Wide<int32_t> {
  using Type = uint32_t;
};
template <>
struct Wide<int64_t> {
  using Type = uint64_t;
};

template <class T>
LAZULI_DEVICE typename Wide<T>::Type widen(T x) {
  return static_cast<typename Wide<T>::Type>(x);
}
LAZULI_DEVICE float widen(Bf16Bits x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LAZULI_DEVICE float widen(F16Bits x) {
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t finite = __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return __uint_as_float(bits | (x.bits & 0x8000u) << 16);
}

LAZULI_DEVICE void put(Bf16Bits* to, float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16 | 0x40u));
}
LAZULI_DEVICE void put(F16Bits* to, float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  const uint32_t subnormal = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  to->bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}
template <class T>
LAZULI_DEVICE void put(T* to, typename Wide<T>::Type x) {
  *to = static_cast<T>(x);
}

template <class T, class Out>
LAZULI_DEVICE void multiply(const MatmulSimpleArgs& args, typename Wide<T>::Type (*aTile)[kMatmulSimpleTile],
                            typename Wide<T>::Type (*bTile)[kMatmulSimpleTile + 1]) {
  using W = typename Wide<T>::Type;
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
    aTile[row][column] = m < args.m && ka < args.k ? widen(a[m * args.aLine + ka * args.aDepth]) : W(0);
    bTile[row][column] = n < args.n && kb < args.k ? widen(b[n * args.bLine + kb * args.bDepth]) : W(0);
    __syncthreads();
    for (int i = 0; i < tile; i++) sum += aTile[row][i] * bTile[i][column];
    __syncthreads();
  }
  if (m < args.m && n < args.n)
    put(static_cast<Out*>(args.c) + (static_cast<int64_t>(blockIdx.z) * args.m + m) * args.n + n, sum);
}

#define LAZULI_MATMUL_SIMPLE(name, T, Out)                                       \
  LAZULI_KERNEL(lazuli_matmul_simple_##name, MatmulSimpleArgs, 256) {            \
    LAZULI_SHARED Wide<T>::Type aTile[kMatmulSimpleTile][kMatmulSimpleTile];     \
    LAZULI_SHARED Wide<T>::Type bTile[kMatmulSimpleTile][kMatmulSimpleTile + 1]; \
    multiply<T, Out>(args, aTile, bTile);                                        \
  }
LAZULI_MATMUL_SIMPLE(f32_f32, float, float)
LAZULI_MATMUL_SIMPLE(f64_f64, double, double)
LAZULI_MATMUL_SIMPLE(bf16_bf16, Bf16Bits, Bf16Bits)
LAZULI_MATMUL_SIMPLE(f16_f16, F16Bits, F16Bits)
LAZULI_MATMUL_SIMPLE(bf16_f32, Bf16Bits, float)
LAZULI_MATMUL_SIMPLE(f16_f32, F16Bits, float)
LAZULI_MATMUL_SIMPLE(i32_i32, int32_t, int32_t)
LAZULI_MATMUL_SIMPLE(i64_i64, int64_t, int64_t)

}  // namespace lazuli::cuda
