#pragma once

// Vectors, conversions, the register tile and packing that isa/gemm*.cpp and isa/attention*.cpp are built
// from. Included inside `namespace lazuli::LAZULI_ISA` (isa.h says why), so it includes nothing.

#define LAZULI_INLINE inline __attribute__((always_inline))
#define LAZULI_UNROLL _Pragma("GCC unroll 16")

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
// x 2 vectors: 16 accumulators of 32 registers, and less than one load per multiply-add.
constexpr int kTileRows = 8;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 4;  // x 2 vectors of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 2;

struct Bf16 {
  unsigned short bits;
};
struct Half {
  unsigned short bits;
};

template <class T>
struct Simd;
template <>
struct Simd<float> {
  static constexpr int width = kVectorBytes / 4;
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int Mask __attribute__((vector_size(kVectorBytes)));
  typedef unsigned Bits __attribute__((vector_size(kVectorBytes)));
  typedef unsigned short Short __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct Simd<double> {
  static constexpr int width = kVectorBytes / 8;
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef long long Mask __attribute__((vector_size(kVectorBytes)));
  typedef unsigned long long Bits __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Simd<T>::Vector;
using F32 = Vec<float>;
using U32 = Simd<float>::Bits;
using I32 = Simd<float>::Mask;
using F64 = Vec<double>;
using U64 = Simd<double>::Bits;
using U16 = Simd<float>::Short;

template <class T>
LAZULI_INLINE Vec<T> splat(T x) {
  return Vec<T>{} + x;
}
/// Lane numbers from `first` on.
template <class T>
LAZULI_INLINE typename Simd<T>::Mask lanes(long long first) {
  typename Simd<T>::Mask index{};
  LAZULI_UNROLL
  for (int i = 0; i < Simd<T>::width; i++) index[i] = i;
  return index + static_cast<decltype(index[0] + 0)>(first);
}

// Storage types: loads widen to the type computed in, stores round to nearest even.

template <class T>
LAZULI_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
LAZULI_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

LAZULI_INLINE U32 loadShorts(const void* p) {
  U16 s;
  __builtin_memcpy(&s, p, sizeof s);
  return __builtin_convertvector(s, U32);
}
LAZULI_INLINE void storeShorts(void* p, U32 v) {
  U16 s = __builtin_convertvector(v, U16);
  __builtin_memcpy(p, &s, sizeof s);
}

LAZULI_INLINE F32 load(const Bf16* p) { return (F32)(loadShorts(p) << 16); }
LAZULI_INLINE void store(Bf16* p, F32 v) {
  const U32 x = (U32)v;
  const U32 rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
  storeShorts(p, v == v ? rounded : (x >> 16) | 0x40u);
}

LAZULI_INLINE F32 load(const Half* p) {
  const U32 h = loadShorts(p);
  const U32 magnitude = h & 0x7fffu;
  // Exponent and mantissa moved into place are 2^-112 too small; the product is right for subnormals too.
  const F32 scaled = (F32)(magnitude << 13) * 0x1p112f;
  const U32 special = (magnitude << 13) | 0x7f800000u;
  return (F32)((magnitude >= 0x7c00u ? special : (U32)scaled) | ((h & 0x8000u) << 16));
}
LAZULI_INLINE void store(Half* p, F32 v) {
  const U32 x = (U32)v;
  const U32 sign = x & 0x80000000u;
  const U32 magnitude = x ^ sign;
  const U32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 puts the subnormal half's bits lowest in the sum's mantissa, rounded.
  const U32 subnormal = (U32)((F32)magnitude + 0.5f) - (126u << 23);
  U32 h = magnitude < (113u << 23) ? subnormal : normal;
  h = magnitude >= (143u << 23) ? U32{} + 0x7c00u : h;
  h = magnitude > 0x7f800000u ? U32{} + 0x7e00u : h;
  storeShorts(p, h | (sign >> 16));
}

/// `count` elements of a short row; the rest of the vector is zero.
template <class T, class S>
LAZULI_INLINE Vec<T> loadPart(const S* p, long long count) {
  if (count >= Simd<T>::width) return load(p);
  S part[Simd<T>::width];
  __builtin_memset(part, 0, sizeof part);
  for (long long i = 0; i < count; i++) part[i] = p[i];
  return load(part);
}
template <class T, class S>
LAZULI_INLINE void storePart(S* p, Vec<T> v, long long count) {
  if (count >= Simd<T>::width) return store(p, v);
  S part[Simd<T>::width];
  store(part, v);
  for (long long i = 0; i < count; i++) p[i] = part[i];
}

// Functions.

LAZULI_INLINE F32 exp2Fraction(F32 f) {
  // 2^f on [-0.5, 0.5], Chebyshev fit of degree 6: relative error 2e-9 before rounding.
  F32 p = splat(1.5353362e-4f);
  p = p * f + 1.3398874e-3f;
  p = p * f + 9.6184373e-3f;
  p = p * f + 5.5503324e-2f;
  p = p * f + 2.4022648e-1f;
  p = p * f + 6.9314720e-1f;
  return p * f + 1.0f;
}
/// 2^x; below 2^-126 it is 0.
LAZULI_INLINE F32 exp2(F32 x) {
  const F32 low = splat(-126.0f), high = splat(128.0f);
  F32 c = x > low ? x : low;
  c = c < high ? c : high;
  const F32 shifted = c + 0x1.8p23f;  // the nearest integer is in the low bits
  const F32 p = exp2Fraction(c - (shifted - 0x1.8p23f));
  const F32 y = (F32)((U32)p + ((U32)shifted << 23));
  return x == x ? (x < low ? F32{} : y) : x;
}
LAZULI_INLINE F64 exp2Fraction(F64 f) {
  // ln(2)^k / k!, 13 terms: the next is below 2^-57 on [-0.5, 0.5].
  constexpr double terms[] = {1.3691488853904128e-12, 2.5678435993488206e-11,
                              4.4455382718708116e-10, 7.054911620801123e-09,
                              1.01780860092397e-07,   1.321548679014431e-06,
                              1.5252733804059841e-05, 0.0001540353039338161,
                              0.0013333558146428443,  0.009618129107628477,
                              0.05550410866482158,    0.24022650695910072,
                              0.6931471805599453,     1.0};
  F64 p = splat(terms[0]);
  LAZULI_UNROLL
  for (int i = 1; i < 14; i++) p = p * f + terms[i];
  return p;
}
LAZULI_INLINE F64 exp2(F64 x) {
  const F64 low = splat(-1022.0), high = splat(1024.0);
  F64 c = x > low ? x : low;
  c = c < high ? c : high;
  const F64 shifted = c + 0x1.8p52;
  const F64 p = exp2Fraction(c - (shifted - 0x1.8p52));
  const F64 y = (F64)((U64)p + ((U64)shifted << 52));
  return x == x ? (x < low ? F64{} : y) : x;
}
LAZULI_INLINE F32 exp(F32 x) {
  const F32 low = splat(-87.33654f), high = splat(88.72283f);
  F32 c = x > low ? x : low;
  c = c < high ? c : high;
  const F32 shifted = c * 1.44269504f + 0x1.8p23f;
  const F32 n = shifted - 0x1.8p23f;
  const F32 r = c - n * 0.693145752f - n * 1.42860677e-6f;  // ln 2 in two parts
  const F32 p = exp2Fraction(r * 1.44269504f);
  const F32 y = (F32)((U32)p + ((U32)shifted << 23));
  return x > high ? splat(__builtin_inff()) : x < low ? F32{} : x == x ? y : x;
}
LAZULI_INLINE F64 exp(F64 x) {
  const F64 low = splat(-708.3964185322641), high = splat(709.782712893384);
  F64 c = x > low ? x : low;
  c = c < high ? c : high;
  const F64 shifted = c * 1.4426950408889634 + 0x1.8p52;
  const F64 n = shifted - 0x1.8p52;
  const F64 r = c - n * 0x1.62e42p-1 - n * 4.7493250390316726e-07;
  const F64 p = exp2Fraction(r * 1.4426950408889634);
  const F64 y = (F64)((U64)p + ((U64)shifted << 52));
  return x > high ? splat(__builtin_inf()) : x < low ? F64{} : x == x ? y : x;
}
LAZULI_INLINE F32 erf(F32 x) {
  // Abramowitz & Stegun 7.1.26: absolute error 1.5e-7.
  const F32 z = x < 0.0f ? -x : x;
  const F32 t = 1.0f / (1.0f + z * 0.3275911f);
  F32 p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const F32 y = 1.0f - p * t * exp(-(z * z));
  return x < 0.0f ? -y : y;
}
LAZULI_INLINE F64 erf(F64 x) {
  LAZULI_UNROLL
  for (int i = 0; i < Simd<double>::width; i++) x[i] = __builtin_erf(x[i]);
  return x;
}

// The register tile: acc[i][j] += sum over p of A(i, p) * b[p * ldb + j], where A(i, p) lies at a[p * lda +
// i] (kMajor) or at a[i * lda + p].

template <class T, int rows, int vectors, bool kMajor>
LAZULI_INLINE void accumulateTile(Vec<T> (&acc)[rows][vectors], long long k, const T* a, long long lda,
                                  const T* b, long long ldb) {
#pragma GCC unroll 1
  for (long long p = 0; p < k; p++) {
    Vec<T> row[vectors];
    LAZULI_UNROLL
    for (int j = 0; j < vectors; j++) row[j] = load(b + j * Simd<T>::width);
    LAZULI_UNROLL
    for (int i = 0; i < rows; i++) {
      const T x = kMajor ? a[i] : a[i * lda];
      LAZULI_UNROLL
      for (int j = 0; j < vectors; j++) acc[i][j] += row[j] * x;
    }
    a += kMajor ? lda : 1;
    b += ldb;
  }
}

// Transposing a square of vectors: each round interleaves row i with row i + width / 2.

template <int... i>
struct Indices {};
template <int n, int... i>
struct MakeIndices : MakeIndices<n - 1, n - 1, i...> {};
template <int... i>
struct MakeIndices<0, i...> {
  using Type = Indices<i...>;
};
template <class V, int... i>
LAZULI_INLINE V interleave(V a, V b, int half, Indices<i...>) {
  constexpr int n = sizeof...(i);
  return half == 0 ? __builtin_shufflevector(a, b, (i / 2 + i % 2 * n)...)
                   : __builtin_shufflevector(a, b, (n / 2 + i / 2 + i % 2 * n)...);
}
template <class T>
LAZULI_INLINE void transposeSquare(Vec<T> (&rows)[Simd<T>::width]) {
  constexpr int n = Simd<T>::width;
  using Lanes = typename MakeIndices<n>::Type;
  LAZULI_UNROLL
  for (int round = 1; round < n; round *= 2) {
    Vec<T> next[n];
    LAZULI_UNROLL
    for (int i = 0; i < n / 2; i++) {
      next[2 * i] = interleave(rows[i], rows[i + n / 2], 0, Lanes{});
      next[2 * i + 1] = interleave(rows[i], rows[i + n / 2], 1, Lanes{});
    }
    LAZULI_UNROLL
    for (int i = 0; i < n; i++) rows[i] = next[i];
  }
}

/// to[c * ld + r] = scale * from[r * stride + c], and 0 for r from `rows` up to `paddedRows`, a multiple of
/// the width.
template <class T, class S>
inline void packTransposed(T* to, long long ld, const S* from, long long stride, long long rows,
                           long long cols, long long paddedRows, T scale) {
  constexpr int n = Simd<T>::width;
  for (long long r = 0; r < paddedRows; r += n) {
    for (long long c = 0; c < cols; c += n) {
      Vec<T> square[n];
      LAZULI_UNROLL
      for (int i = 0; i < n; i++)
        square[i] = r + i < rows ? loadPart<T>(from + (r + i) * stride + c, cols - c) * scale : Vec<T>{};
      transposeSquare<T>(square);
      LAZULI_UNROLL
      for (int i = 0; i < n; i++)
        if (c + i < cols) store(to + (c + i) * ld + r, square[i]);
    }
  }
}

/// to[r * ld + c] = from[r * stride + c], zeros for c from `cols` up to `paddedCols`, a multiple of the
/// width.
template <class T, class S>
inline void packRows(T* to, long long ld, const S* from, long long stride, long long rows, long long cols,
                     long long paddedCols) {
  constexpr int n = Simd<T>::width;
  for (long long r = 0; r < rows; r++) {
    long long c = 0;
    for (; c + n <= cols; c += n) store(to + r * ld + c, load(from + r * stride + c));
    for (; c < paddedCols; c += n)
      store(to + r * ld + c, c < cols ? loadPart<T>(from + r * stride + c, cols - c) : Vec<T>{});
  }
}
