#pragma once

#include <stdint.h>

namespace lazuli::LAZULI_ISA {

// Transposes squares of N x N elements in registers: log2 N rounds in which row i and row i + N/2 interleave.

template <size_t kBytes>
struct Raw;
template <>
struct Raw<1> {
  using Type = uint8_t;
};
template <>
struct Raw<2> {
  using Type = uint16_t;
};
template <>
struct Raw<4> {
  using Type = uint32_t;
};
template <>
struct Raw<8> {
  using Type = uint64_t;
};

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <int N>
struct Interleave;
template <>
struct Interleave<2> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 2);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 1, 3);
  }
};
template <>
struct Interleave<4> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
};
template <>
struct Interleave<8> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
};
template <>
struct Interleave<16> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
};

template <class U, int N>
inline void transposeSquare(U* to, int64_t toStride, const U* from, int64_t fromStride) {
  typedef U V __attribute__((vector_size(N * sizeof(U))));
  V a[N], b[N];
  for (int i = 0; i < N; i++) __builtin_memcpy(&a[i], from + i * fromStride, sizeof(V));
  for (int round = 1; round < N; round *= 2) {
    for (int i = 0; i < N / 2; i++) {
      b[2 * i] = Interleave<N>::low(a[i], a[i + N / 2]);
      b[2 * i + 1] = Interleave<N>::high(a[i], a[i + N / 2]);
    }
    for (int i = 0; i < N; i++) a[i] = b[i];
  }
  for (int i = 0; i < N; i++) __builtin_memcpy(to + i * toStride, &a[i], sizeof(V));
}

/// to[i * toStride + j] = from[j * fromStride + i] for i < rows, j < columns.
template <class U>
void transposeRaw(U* to, int64_t toStride, const U* from, int64_t fromStride, int64_t rows, int64_t columns) {
  constexpr int64_t kFits = kVectorBytes / sizeof(U);
  constexpr int64_t kSide = kFits > 16 ? 16 : kFits;
  const int64_t wholeRows = rows / kSide * kSide, wholeColumns = columns / kSide * kSide;
  for (int64_t i = 0; i < wholeRows; i += kSide)
    for (int64_t j = 0; j < wholeColumns; j += kSide)
      transposeSquare<U, kSide>(to + i * toStride + j, toStride, from + j * fromStride + i, fromStride);
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = j < wholeColumns ? wholeRows : 0; i < rows; i++)
      __builtin_memcpy(to + i * toStride + j, from + j * fromStride + i, sizeof(U));
}

}  // namespace lazuli::LAZULI_ISA
