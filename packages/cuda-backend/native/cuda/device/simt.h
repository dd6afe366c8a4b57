#pragma once

// What every CUDA source begins with, for three compilers: nvcc (device/*.cu, into the addon), NVRTC (fused
// groups, printed at run time) and the host's, which runs the same source thread by thread in tests that have
// no GPU (test/simt/). Nothing is included from the C++ library, which NVRTC does not have.

#if defined(LAZULI_SIMT)
#include "test/simt/simt.h"
#else

#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef uint64_t uintptr_t;
#else
#include <stdint.h>
#endif

#define LAZULI_DEVICE __device__ __forceinline__
/// A kernel of up to `threads` threads a block, whose one parameter is `args`, an Args given by value.
#define LAZULI_KERNEL(name, Args, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args args)
/// One of which a multiprocessor runs a block at a time: its threads may have all registers.
#define LAZULI_KERNEL_ALONE(name, Args, threads) \
  extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Args args)
#define LAZULI_SHARED __shared__
/// The block's dynamic shared memory.
#define LAZULI_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

#endif

#include "fault.h"

namespace lazuli::cuda {

/// Leaves the first fault of a run.
LAZULI_DEVICE void leaveFault(Fault* fault, unsigned step, long long value, long long limit,
                              long long position) {
  if (atomicCAS(&fault->set, 0u, 1u) != 0u) return;
  fault->step = step;
  fault->value = value;
  fault->limit = limit;
  fault->position = position;
}

}  // namespace lazuli::cuda
