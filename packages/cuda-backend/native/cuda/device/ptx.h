#pragma once

// The GPU's instructions that CUDA C++ has no names for, after NVIDIA's PTX ISA; beside each what it is in
// the emulator (test/simt/simt_ptx.h).

#include "dtype.h"

#if defined(LAZULI_SIMT)
#include "test/simt/simt_ptx.h"
#endif

namespace lazuli::cuda {

template <class T>
inline constexpr bool kIsBFloat16 = false;
template <>
inline constexpr bool kIsBFloat16<BFloat16> = true;

#if !defined(LAZULI_SIMT)
LAZULI_DEVICE uint32_t sharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

/// The value, of which a compiler knows nothing: what is computed of it is not kept over a loop's rounds.
LAZULI_DEVICE int computedAnew(int value) {
#if !defined(LAZULI_SIMT)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

/// Has the line at a global address brought into L2.
LAZULI_DEVICE void prefetch([[maybe_unused]] const void* at) {
#if !defined(LAZULI_SIMT)
  asm volatile("prefetch.L2 [%0];" ::"l"(at));
#endif
}

/// Four 8x8 matrices of 16-bit elements from shared memory (ldmatrix): lane i gives row i % 8 of matrix i /
/// 8, 16 bytes; it receives elements 2 * (i % 4) and the next of row i / 4 of each, or, `kTransposed`, of
/// column i / 4.
template <bool kTransposed>
LAZULI_DEVICE void loadMatrices(uint32_t (&to)[4], const void* row) {
#if defined(LAZULI_SIMT)
  simt::loadMatrices(to, row, kTransposed, __builtin_LINE());
#else
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(sharedAddress(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(sharedAddress(row))
                 : "memory");
#endif
}

/// d += a b over a warp (mma.m16n8k16): with g = lane / 4 and t = lane % 4, a holds rows g and g + 8 of
/// columns 2t, 2t + 1, then of 2t + 8, 2t + 9; b rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g; d rows g and
/// g + 8 of columns 2t, 2t + 1.
template <class T>
LAZULI_DEVICE void multiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(LAZULI_SIMT)
  simt::multiplyAdd(d, a, b0, b1, kIsBFloat16<T>, __builtin_LINE());
#else
  if constexpr (kIsBFloat16<T>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Two floats rounded to T, the first in the low half.
template <class T>
LAZULI_DEVICE uint32_t packPair(float low, float high) {
#if defined(LAZULI_SIMT)
  T pair[2];
  store(&pair[0], low);
  store(&pair[1], high);
  return pair[0].bits | static_cast<uint32_t>(pair[1].bits) << 16;
#else
  uint32_t pair;
  if constexpr (kIsBFloat16<T>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

/// 2 to the x, to about two units in the last place; 0 below the normal numbers.
LAZULI_DEVICE float exp2Fast(float x) {
#if defined(LAZULI_SIMT)
  return x < -126 ? 0.0f : exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// Adds to two neighbours in the GPU's memory, at a multiple of 8 bytes, in whatever order threads come.
LAZULI_DEVICE void addPair(float* to, float low, float high) {
#if !defined(LAZULI_SIMT) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(low), "f"(high) : "memory");
#else
  atomicAdd(to, low);
  atomicAdd(to + 1, high);
#endif
}

/// Sixteen bytes to shared memory, zeros where not `there` (cp.async): they are there for this thread after
/// waitCopies, for the others after a barrier then.
LAZULI_DEVICE void copyAsync(void* shared, const void* global, bool there) {
#if defined(LAZULI_SIMT)
  simt::copyAsync(shared, global, there);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
#endif
}
/// Ends a group of copies.
LAZULI_DEVICE void commitCopies() {
#if defined(LAZULI_SIMT)
  simt::commitCopies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Until at most the last `kGroups` groups are on their way.
template <int kGroups>
LAZULI_DEVICE void waitCopies() {
#if defined(LAZULI_SIMT)
  simt::waitCopies(kGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace lazuli::cuda
