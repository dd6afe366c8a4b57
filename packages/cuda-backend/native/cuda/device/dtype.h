#pragma once

// The dtypes as kernels see them: how an element is loaded into what is computed in, and stored. The half
// types round as kernels/scalar_half.h does, by the GPU's own instructions.

#include "simt.h"

namespace lazuli::cuda {

#if defined(LAZULI_SIMT)

#include "kernels/scalar_half.h"

#else

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

LAZULI_DEVICE float load(float x) { return x; }
LAZULI_DEVICE double load(double x) { return x; }
LAZULI_DEVICE float load(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LAZULI_DEVICE float load(Float16 x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}
LAZULI_DEVICE void store(float* to, float x) { *to = x; }
LAZULI_DEVICE void store(double* to, double x) { *to = x; }
LAZULI_DEVICE void store(BFloat16* to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(x)); }
LAZULI_DEVICE void store(Float16* to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(x)); }

#endif

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
  using Type = uint32_t;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::Type;

LAZULI_DEVICE uint32_t load(int32_t x) { return static_cast<uint32_t>(x); }
LAZULI_DEVICE uint64_t load(int64_t x) { return static_cast<uint64_t>(x); }
LAZULI_DEVICE uint32_t load(uint8_t x) { return x; }
LAZULI_DEVICE void store(int32_t* to, uint32_t x) { *to = static_cast<int32_t>(x); }
LAZULI_DEVICE void store(int64_t* to, uint64_t x) { *to = static_cast<int64_t>(x); }
LAZULI_DEVICE void store(uint8_t* to, uint32_t x) { *to = static_cast<uint8_t>(x); }

LAZULI_DEVICE float exp_of(float x) { return expf(x); }
LAZULI_DEVICE double exp_of(double x) { return exp(x); }
LAZULI_DEVICE float log_of(float x) { return logf(x); }
LAZULI_DEVICE double log_of(double x) { return log(x); }
LAZULI_DEVICE float sqrt_of(float x) { return sqrtf(x); }
LAZULI_DEVICE double sqrt_of(double x) { return sqrt(x); }
LAZULI_DEVICE float rsqrt_of(float x) { return rsqrtf(x); }
LAZULI_DEVICE double rsqrt_of(double x) { return 1 / sqrt(x); }

template <class A>
LAZULI_DEVICE A lowest() {
  return -static_cast<A>(__builtin_huge_valf());
}

template <class To, class From>
LAZULI_DEVICE To bitsAs(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

/// Adjacent elements, in registers.
template <class T, int kElements>
struct Elements {
  static constexpr int kCount = kElements;
  static constexpr int kBytes = kElements * static_cast<int>(sizeof(T));
  T at[kElements];
};
/// Sixteen bytes of them.
template <class T>
using Pack = Elements<T, 16 / static_cast<int>(sizeof(T))>;

template <class Word, class T, int kCount>
LAZULI_DEVICE Elements<T, kCount> loadWords(const T* from) {
  constexpr int kWords = Elements<T, kCount>::kBytes / static_cast<int>(sizeof(Word));
  Elements<Word, kWords> words;
#pragma unroll
  for (int i = 0; i < kWords; ++i) words.at[i] = reinterpret_cast<const Word*>(from)[i];
  return bitsAs<Elements<T, kCount>>(words);
}
template <class Word, class T, int kCount>
LAZULI_DEVICE void storeWords(T* to, const Elements<T, kCount>& elements) {
  constexpr int kWords = Elements<T, kCount>::kBytes / static_cast<int>(sizeof(Word));
  const auto words = bitsAs<Elements<Word, kWords>>(elements);
#pragma unroll
  for (int i = 0; i < kWords; ++i) reinterpret_cast<Word*>(to)[i] = words.at[i];
}

/// The elements at `from`, whose alignment is their size, or 16 bytes, in the widest accesses.
template <int kCount, class T>
LAZULI_DEVICE Elements<T, kCount> loadElements(const T* from) {
  constexpr int kBytes = Elements<T, kCount>::kBytes;
  if constexpr (kBytes % 16 == 0)
    return loadWords<uint4, T, kCount>(from);
  else if constexpr (kBytes % 8 == 0)
    return loadWords<uint2, T, kCount>(from);
  else if constexpr (kBytes % 4 == 0)
    return loadWords<uint32_t, T, kCount>(from);
  else
    return loadWords<T, T, kCount>(from);
}
template <class T, int kCount>
LAZULI_DEVICE void storeElements(T* to, const Elements<T, kCount>& elements) {
  constexpr int kBytes = Elements<T, kCount>::kBytes;
  if constexpr (kBytes % 16 == 0)
    storeWords<uint4>(to, elements);
  else if constexpr (kBytes % 8 == 0)
    storeWords<uint2>(to, elements);
  else if constexpr (kBytes % 4 == 0)
    storeWords<uint32_t>(to, elements);
  else
    storeWords<T>(to, elements);
}

/// Elements first.. of the `width` at `row`, in the widest accesses where `aligned` says that the row has
/// their alignment; zero bits beyond the end.
template <int kCount, class T, class Index>
LAZULI_DEVICE Elements<T, kCount> loadElements(const T* row, Index first, Index width, bool aligned) {
  if (aligned && first + kCount <= width) return loadElements<kCount>(row + first);
  Elements<T, kCount> elements{};
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (first + i < width) elements.at[i] = row[first + i];
  return elements;
}
template <class T, class Index>
LAZULI_DEVICE Pack<T> loadPack(const T* row, Index first, Index width, bool aligned) {
  return loadElements<Pack<T>::kCount>(row, first, width, aligned);
}
template <class T, int kCount, class Index>
LAZULI_DEVICE void storeElements(T* row, Index first, Index width, bool aligned,
                                 const Elements<T, kCount>& elements) {
  if (aligned && first + kCount <= width) {
    storeElements(row + first, elements);
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (first + i < width) row[first + i] = elements.at[i];
}

/// kCount elements in what T computes in, of an array of T or, where `single`, of float32 (weights beside
/// half activations); 0 beyond the end.
template <class T, int kCount, class Index>
LAZULI_DEVICE void loadEither(const void* from, bool single, Index first, Index width, bool aligned,
                              Accumulator<T> (&to)[kCount]) {
  if (single) {
    const auto loaded = loadElements<kCount>(static_cast<const float*>(from), first, width, aligned);
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = static_cast<Accumulator<T>>(loaded.at[i]);
    return;
  }
  const auto loaded = loadElements<kCount>(static_cast<const T*>(from), first, width, aligned);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = load(loaded.at[i]);
}

/// Both of a division, in 32 bits where they are enough.
struct Divided {
  int64_t quotient, rest;
};
LAZULI_DEVICE Divided divide(int64_t n, int64_t d) {
  if (static_cast<uint64_t>(n | d) >> 32 == 0) {
    const uint32_t q = static_cast<uint32_t>(n) / static_cast<uint32_t>(d);
    return {q, static_cast<uint32_t>(n) - q * static_cast<uint32_t>(d)};
  }
  return {n / d, n % d};
}

// X(suffix of the kernel's name, type)
#define LAZULI_FLOATS(X) X(f32, float) X(f64, double) X(bf16, BFloat16) X(f16, Float16)
#define LAZULI_NUMBERS(X) LAZULI_FLOATS(X) X(i32, int32_t) X(i64, int64_t) X(u8, uint8_t)

}  // namespace lazuli::cuda
