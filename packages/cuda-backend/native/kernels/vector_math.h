#pragma once

// What the range workers of isa/*.cpp share. Included inside a namespace (isa.h) after <stdint.h>. Reductions
// keep partial sums by vector lane (`omp simd`), so their order depends on the instruction set, never on the
// threads.

// scalar.h needs scalar_math.h before it.
// clang-format off
#include "scalar_math.h"
#include "scalar_half.h"
#include "scalar.h"
// clang-format on

/// What T accumulates in. Integers wrap, so they add as unsigned.
template <class T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <>
struct AccumulatorOf<int32_t> {
  using Type = uint32_t;
};
template <>
struct AccumulatorOf<int64_t> {
  using Type = uint64_t;
};
template <>
struct AccumulatorOf<uint8_t> {
  using Type = uint8_t;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::Type;

inline uint32_t load(int32_t x) { return static_cast<uint32_t>(x); }
inline uint64_t load(int64_t x) { return static_cast<uint64_t>(x); }
inline uint8_t load(uint8_t x) { return x; }
inline void store(int32_t* to, uint32_t x) { *to = static_cast<int32_t>(x); }
inline void store(int64_t* to, uint64_t x) { *to = static_cast<int64_t>(x); }
inline void store(uint8_t* to, uint8_t x) { *to = x; }

/// The largest of x; NaN is passed over, -inf where there is nothing else.
template <class T>
Accumulator<T> largest(const T* x, int64_t n) {
  Accumulator<T> top = -static_cast<Accumulator<T>>(__builtin_inff());
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) {
    const Accumulator<T> value = load(x[i]);
    top = value > top ? value : top;
  }
  return top;
}
