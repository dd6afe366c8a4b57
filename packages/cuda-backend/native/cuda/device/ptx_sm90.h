#pragma once

// Hopper's own instructions (sm_90a), after NVIDIA's PTX ISA 9.0; the sections stand beside them. What each
// is in the emulator is written from the same text apart from this file (test/simt/simt_bulk.h,
// simt_wgmma.h).

#include "attention.h"
#include "ptx.h"

#if defined(LAZULI_SIMT)
#include "test/simt/simt_bulk.h"
#include "test/simt/simt_wgmma.h"
#endif

namespace lazuli::cuda {

// ---- mbarriers (9.7.13.15), in shared memory. A phase ends when as many threads have arrived as the barrier
// was made for and all bytes that were announced are there; phases are told apart by their parity, the first
// has 0.

using Barrier = uint64_t;

LAZULI_DEVICE void initBarrier(Barrier* barrier, unsigned arrivals) {
#if defined(LAZULI_SIMT)
  simt::initBarrier(barrier, arrivals);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals)
               : "memory");
#endif
}
/// Before the block's barrier after which others use what initBarrier made, bulk copies among them.
LAZULI_DEVICE void publishBarriers() {
#if !defined(LAZULI_SIMT)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
LAZULI_DEVICE void arrive(Barrier* barrier) {
#if defined(LAZULI_SIMT)
  simt::arrive(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
#endif
}
/// Announces `bytes` and arrives.
LAZULI_DEVICE void arriveExpecting(Barrier* barrier, unsigned bytes) {
#if defined(LAZULI_SIMT)
  simt::arrive(barrier, bytes);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)),
               "r"(bytes)
               : "memory");
#endif
}
/// Until the phase of this parity has ended. After ten seconds, far beyond any wait that ends, it is a fault
/// that the host is told of, not a GPU that hangs. In one piece: branches around products make ptxas
/// serialise them.
LAZULI_DEVICE void waitFor(Barrier* barrier, unsigned parity) {
#if defined(LAZULI_SIMT)
  simt::waitFor(barrier, parity, __builtin_LINE());
#else
  asm volatile(
      "{\n.reg .pred done, late;\n.reg .u64 start, now;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "mov.u64 start, %%globaltimer;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "mov.u64 now, %%globaltimer;\n"
      "sub.u64 now, now, start;\n"
      "setp.gt.u64 late, now, 10000000000;\n"
      "@late trap;\n"
      "bra again;\n"
      "over:\n}" ::"r"(sharedAddress(barrier)),
      "r"(parity)
      : "memory");
#endif
}

// ---- Copies by the tensor memory accelerator (9.7.9.27.1.2, cp.async.bulk.tensor; tensor maps 5.5).

LAZULI_DEVICE void prefetchMap([[maybe_unused]] const TensorMap& map) {
#if !defined(LAZULI_SIMT)
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}
/// The box at these elements of a tensor of four dims to shared memory, zeros for what lies beyond it; all
/// its bytes count for `barrier`. One thread asks for it.
LAZULI_DEVICE void loadBox(void* shared, const TensorMap& map, Barrier* barrier, int column, int row,
                           int head, int batch) {
#if defined(LAZULI_SIMT)
  const int at[] = {column, row, head, batch};
  simt::loadBox(shared, &map, barrier, at, 4);
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], [%2];" ::"r"(sharedAddress(shared)),
      "l"(&map), "r"(sharedAddress(barrier)), "r"(column), "r"(row), "r"(head), "r"(batch)
      : "memory");
#endif
}
/// What this thread stored to shared memory is seen by products and bulk copies after the next barrier.
LAZULI_DEVICE void publishStores() {
#if defined(LAZULI_SIMT)
  simt::publishStores();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- Threads among themselves.

/// Registers of each thread of the warpgroup from here on (9.7.19.5, setmaxnreg): all its warps say so.
template <int kRegisters>
LAZULI_DEVICE void giveRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if !defined(LAZULI_SIMT)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
LAZULI_DEVICE void takeRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
#if !defined(LAZULI_SIMT)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
/// Until `threads` threads have come to barrier `id`, 1 to 15 (9.7.13.1, bar.sync; 0 is __syncthreads').
LAZULI_DEVICE void meet(int id, int threads) {
#if defined(LAZULI_SIMT)
  simt::blockBarrier(static_cast<unsigned>(id), static_cast<unsigned>(threads), true, 0, "bar.sync",
                     __builtin_LINE());
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}
/// Comes there and goes on (bar.arrive).
LAZULI_DEVICE void comeTo(int id, int threads) {
#if defined(LAZULI_SIMT)
  simt::blockBarrier(static_cast<unsigned>(id), static_cast<unsigned>(threads), false, 0, "bar.arrive",
                     __builtin_LINE());
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// ---- Products of a warpgroup (9.7.15, wgmma). Asynchronous: between beginProducts and awaitProducts nothing
// may touch the registers of a product.

/// A matrix in shared memory (9.7.15.5.1.2.2): where it starts, the two strides, 128- or 64-byte swizzling.
/// `leading` and `stride` in bytes (9.7.15.5.1.2.1): of a K-major matrix the leading one is not used, the
/// other leads 8 rows on; of an MN-major one the leading one leads a swizzled row's width on along M or N,
/// the other 8 rows along K.
template <int kSwizzleBytes>
LAZULI_DEVICE uint64_t matrixAt(const void* shared, unsigned leading, unsigned stride) {
  static_assert(kSwizzleBytes == 128 || kSwizzleBytes == 64);
  const auto encode = [](uint64_t bytes) { return (bytes & 0x3ffff) >> 4; };
#if defined(LAZULI_SIMT)
  const uint64_t start = simt::sharedAddress(shared);
#else
  const uint64_t start = sharedAddress(shared);
#endif
  return encode(start) | encode(leading) << 16 | encode(stride) << 32 |
         static_cast<uint64_t>(kSwizzleBytes == 128 ? 1 : 2) << 62;
}

/// Orders what was done with registers before products that use them (wgmma.fence).
LAZULI_DEVICE void beginProducts() {
#if defined(LAZULI_SIMT)
  simt::wgmmaFence(__builtin_LINE());
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/// Ends a group of products.
LAZULI_DEVICE void endProducts() {
#if defined(LAZULI_SIMT)
  simt::wgmmaCommit(__builtin_LINE());
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kTiles>
LAZULI_DEVICE void pin([[maybe_unused]] float (&d)[kTiles][4]) {
#if !defined(LAZULI_SIMT)
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
#endif
}
/// Until at most the last `kGroups` groups are on their way; what they left in `done` may be used then.
template <int kGroups, class... Results>
LAZULI_DEVICE void awaitProducts(Results&... done) {
#if defined(LAZULI_SIMT)
  simt::wgmmaWait(kGroups, __builtin_LINE());
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#endif
  (pin(done), ...);
}

#if !defined(LAZULI_SIMT)
// The numbers of an accumulator's registers, and what comes after them.
#define LAZULI_D4(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define LAZULI_D64                                                                                  \
  LAZULI_D4(0), LAZULI_D4(1), LAZULI_D4(2), LAZULI_D4(3), LAZULI_D4(4), LAZULI_D4(5), LAZULI_D4(6), \
      LAZULI_D4(7)
#define LAZULI_D96 LAZULI_D64, LAZULI_D4(8), LAZULI_D4(9), LAZULI_D4(10), LAZULI_D4(11)
#define LAZULI_D128 LAZULI_D96, LAZULI_D4(12), LAZULI_D4(13), LAZULI_D4(14), LAZULI_D4(15)
#define LAZULI_N64                                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LAZULI_N96 \
  LAZULI_N64 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LAZULI_N128 \
  LAZULI_N96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LAZULI_WGMMA(n, type, tail, a, b, scale, ...)                                           \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" scale                                 \
               ", 0;\n"                                                                         \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" LAZULI_N##n \
               "}, " a ", %" b ", adds, 1, 1" tail ";\n}"                                       \
               : LAZULI_D##n                                                                    \
               : __VA_ARGS__)
#endif

/// d = a b, or d += a b where it `adds`, over a warpgroup (9.7.15.5.2): a is [64, 16], b [16, N]; d as of
/// multiplyAdd, of rows 16 * (warp % 4).. of each warp. Both in shared memory, b K-major, that is as [N, 16];
/// a so too, or, `kLeftRows`, as [16, 64].
template <class T, bool kLeftRows = false, bool kRightRows = false, int kTiles>
LAZULI_DEVICE void multiplyShared(float (&d)[kTiles][4], uint64_t a, uint64_t b, bool adds) {
  static_assert(kTiles == 8 || kTiles == 12 || kTiles == 16);
#if defined(LAZULI_SIMT)
  simt::wgmmaShared(d[0], kTiles * 8, a, b, kLeftRows, kRightRows, adds, kIsBFloat16<T>, __builtin_LINE());
#else
  const int add = adds;
#define LAZULI_SHARED_PRODUCT(n, type, a0, b0, s0, ta, tb)                                                   \
  LAZULI_WGMMA(n, type, ", %" ta ", %" tb, "%" a0, b0, s0, "l"(a), "l"(b), "r"(add), "n"(kLeftRows ? 1 : 0), \
               "n"(kRightRows ? 1 : 0))
#define LAZULI_SHARED_PRODUCTS(type)                               \
  if constexpr (kTiles == 8)                                       \
    LAZULI_SHARED_PRODUCT(64, type, "32", "33", "34", "35", "36"); \
  else if constexpr (kTiles == 12)                                 \
    LAZULI_SHARED_PRODUCT(96, type, "48", "49", "50", "51", "52"); \
  else                                                             \
    LAZULI_SHARED_PRODUCT(128, type, "64", "65", "66", "67", "68")
  if constexpr (kIsBFloat16<T>) {
    LAZULI_SHARED_PRODUCTS("bf16");
  } else {
    LAZULI_SHARED_PRODUCTS("f16");
  }
#undef LAZULI_SHARED_PRODUCTS
#undef LAZULI_SHARED_PRODUCT
#endif
}
/// d += a b with a in registers, as of multiplyAdd, of each warp's 16 rows, and b in shared memory as [16,
/// N].
template <class T, int kTiles>
LAZULI_DEVICE void multiplyRegisters(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b) {
  static_assert(kTiles == 8 || kTiles == 12 || kTiles == 16);
#if defined(LAZULI_SIMT)
  simt::wgmmaRegisters(d[0], kTiles * 8, a, b, true, true, kIsBFloat16<T>, __builtin_LINE());
#else
#define LAZULI_REGISTER_PRODUCT(n, type, a0, b0, s0) \
  LAZULI_WGMMA(n, type, ", 1", a0, b0, s0, "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))
#define LAZULI_REGISTER_PRODUCTS(type)                                     \
  if constexpr (kTiles == 8)                                               \
    LAZULI_REGISTER_PRODUCT(64, type, "{%32, %33, %34, %35}", "36", "37"); \
  else if constexpr (kTiles == 12)                                         \
    LAZULI_REGISTER_PRODUCT(96, type, "{%48, %49, %50, %51}", "52", "53"); \
  else                                                                     \
    LAZULI_REGISTER_PRODUCT(128, type, "{%64, %65, %66, %67}", "68", "69")
  if constexpr (kIsBFloat16<T>) {
    LAZULI_REGISTER_PRODUCTS("bf16");
  } else {
    LAZULI_REGISTER_PRODUCTS("f16");
  }
#undef LAZULI_REGISTER_PRODUCTS
#undef LAZULI_REGISTER_PRODUCT
#endif
}

#if !defined(LAZULI_SIMT)
#undef LAZULI_WGMMA
#undef LAZULI_D4
#undef LAZULI_D64
#undef LAZULI_D96
#undef LAZULI_D128
#undef LAZULI_N64
#undef LAZULI_N96
#undef LAZULI_N128
#endif

}  // namespace lazuli::cuda
