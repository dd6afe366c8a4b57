#pragma once

// CUDA's spellings for the host's compiler: what device/simt.h includes where LAZULI_SIMT is defined. A
// kernel runs as engine.h tells.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine.h"
#include "simt_math.h"
#include "simt_vectors.h"
#include "simt_warp.h"

#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (::lazuli::simt::here.thread)
#define blockIdx (::lazuli::simt::here.block)
#define blockDim (::lazuli::simt::here.blockSize)
#define gridDim (::lazuli::simt::here.grid)
inline constexpr int warpSize = 32;

namespace lazuli::simt {
inline thread_local volatile unsigned char sharedAnchor;
inline void touchShared() { sharedAnchor = 0xff; }
}  // namespace lazuli::simt

#define LAZULI_DEVICE inline
#define LAZULI_KERNEL(name, Args, threads)                                                                   \
  static void name##_body(const Args& args);                                                                 \
  static const ::lazuli::simt::Registered name##_registered(                                                 \
      {#name, sizeof(Args), threads, [](const void* args) { name##_body(*static_cast<const Args*>(args)); }, \
       ::lazuli::simt::touchShared});                                                                        \
  static void name##_body([[maybe_unused]] const Args& args)
#define LAZULI_KERNEL_ALONE(name, Args, threads) LAZULI_KERNEL(name, Args, threads)
/// Of one block at a time, and 0xff bytes when it starts. (thread_local, so that engine.cpp finds them all.)
#define LAZULI_SHARED static thread_local
/// Inside a function only.
#define LAZULI_DYNAMIC_SHARED(name) unsigned char* const name = ::lazuli::simt::here.shared

// Barriers of the block.

inline void __syncthreads(int line = __builtin_LINE()) {
  ::lazuli::simt::blockBarrier(0, (blockDim.x + 31) / 32 * 32, true, 0, "__syncthreads", line);
}
inline int __syncthreads_count(int value, int line = __builtin_LINE()) {
  return ::lazuli::simt::blockBarrier(0, (blockDim.x + 31) / 32 * 32, true, value != 0, "__syncthreads_count",
                                      line);
}
inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
  return __syncthreads_count(value, line) != 0;
}
inline int __syncthreads_and(int value, int line = __builtin_LINE()) {
  return __syncthreads_count(value, line) == static_cast<int>(blockDim.x);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { ::lazuli::simt::fault("__trap()"); }

// Atomics: nothing comes between.

template <class T>
inline T atomicExch(T* at, T value) {
  const T old = *at;
  *at = value;
  return old;
}
template <class T>
inline T atomicCAS(T* at, T expected, T value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}
#define LAZULI_SIMT_ATOMIC(name, result)               \
  template <class T>                                   \
  inline T name(T* at, decltype(T{} + T{}) value_) {   \
    const T old = *at, value = static_cast<T>(value_); \
    *at = static_cast<T>(result);                      \
    return old;                                        \
  }
LAZULI_SIMT_ATOMIC(atomicAdd, old + value)
LAZULI_SIMT_ATOMIC(atomicSub, old - value)
LAZULI_SIMT_ATOMIC(atomicMin, value < old ? value : old)
LAZULI_SIMT_ATOMIC(atomicMax, value > old ? value : old)
LAZULI_SIMT_ATOMIC(atomicAnd, old& value)
LAZULI_SIMT_ATOMIC(atomicOr, old | value)
LAZULI_SIMT_ATOMIC(atomicXor, old ^ value)
#undef LAZULI_SIMT_ATOMIC

// Loads and stores with a cache's hint.

#define LAZULI_SIMT_LOAD(name)   \
  template <class T>             \
  inline T name(const T* from) { \
    return *from;                \
  }
LAZULI_SIMT_LOAD(__ldg)
LAZULI_SIMT_LOAD(__ldcg)
LAZULI_SIMT_LOAD(__ldca)
LAZULI_SIMT_LOAD(__ldcs)
LAZULI_SIMT_LOAD(__ldlu)
LAZULI_SIMT_LOAD(__ldcv)
#undef LAZULI_SIMT_LOAD
#define LAZULI_SIMT_STORE(name)      \
  template <class T>                 \
  inline void name(T* to, T value) { \
    *to = value;                     \
  }
LAZULI_SIMT_STORE(__stwb)
LAZULI_SIMT_STORE(__stcg)
LAZULI_SIMT_STORE(__stcs)
LAZULI_SIMT_STORE(__stwt)
#undef LAZULI_SIMT_STORE
