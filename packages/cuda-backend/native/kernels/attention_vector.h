#pragma once

// What attention and its gradient share. Included inside `namespace lazuli::LAZULI_ISA`.

#include "kernels/gemm_vector.h"

constexpr int64_t kBlock = kAttentionBlock;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// isa/attention_grad.cpp; isa/attention.cpp has the table.
size_t attentionGradScratch(const AttentionShape& shape, int64_t keyStep);
void attentionGrad(const AttentionShape& shape, const AttentionGradTask& task);
void attentionGradQueries(const AttentionShape& shape, const void* sums, int64_t parts, int64_t partStride,
                          int64_t count, void* dq, int64_t dqRow);

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T, int vectors, bool kMajor, bool add>
LAZULI_INLINE void productPanel(int64_t m, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                                int64_t ldc) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t i = 0; i < m; i += kTileRows) {
    Vec<T> acc[kTileRows][vectors] = {};
    accumulateTile<T, kTileRows, vectors, kMajor>(acc, k, a + (kMajor ? i : i * lda), lda, b, ldb);
    LAZULI_UNROLL
    for (int r = 0; r < kTileRows; r++) LAZULI_UNROLL
    for (int j = 0; j < vectors; j++) {
      T* at = c + (i + r) * ldc + j * width;
      store(at, add ? acc[r][j] + load(at) : acc[r][j]);
    }
  }
}

/// c (+)= a · b with m a multiple of 8 and n of 16. a lies as [k][lda] (kMajor) or as [m][64].
template <class T, bool kMajor, bool add>
inline void product(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                    int64_t ldc) {
  constexpr int64_t width = Simd<T>::width;
  if (!kMajor) lda = kBlock;  // rows at constant distances need one address register, not eight
  int64_t j = 0;
  for (; j + kTileVectors * width <= n; j += kTileVectors * width)
    productPanel<T, kTileVectors, kMajor, add>(m, k, a, lda, b + j, ldb, c + j, ldc);
  for (; j < n; j += width) productPanel<T, 1, kMajor, add>(m, k, a, lda, b + j, ldb, c + j, ldc);
}

// Scores of bfloat16, q · k and dout · v, are sums of exact products where the processor multiplies pairs of
// neighbouring elements: as right as in float32, in half the steps.

template <class S>
struct IsPaired {
  static constexpr bool value = false;
};

#if defined(__AVX512BF16__)
template <>
struct IsPaired<Bf16> {
  static constexpr bool value = true;
};

/// A vector of pairs, zeros past `count` elements; bits, whatever type they have.
LAZULI_INLINE F32 loadPairs(const Bf16* from, int64_t count) {
  F32 pairs{};
  if (count >= 2 * Simd<float>::width)
    __builtin_memcpy(&pairs, from, sizeof pairs);
  else
    __builtin_memcpy(&pairs, from, static_cast<size_t>(count) * sizeof(Bf16));
  return pairs;
}

/// to[c * 64 + r] = elements 2c and 2c + 1 of row r, and 0 for r from `rows` up to `paddedRows`.
inline void packPairs(float* to, const Bf16* from, int64_t stride, int64_t rows, int64_t cols,
                      int64_t paddedRows) {
  constexpr int n = Simd<float>::width;
  const int64_t pairs = (cols + 1) / 2;
  for (int64_t r = 0; r < paddedRows; r += n) {
    for (int64_t c = 0; c < pairs; c += n) {
      F32 square[n];
      LAZULI_UNROLL
      for (int i = 0; i < n; i++)
        square[i] = r + i < rows ? loadPairs(from + (r + i) * stride + 2 * c, cols - 2 * c) : F32{};
      transposeSquare<float>(square);
      LAZULI_UNROLL
      for (int i = 0; i < n; i++)
        if (c + i < pairs) store(to + (c + i) * kBlock + r, square[i]);
    }
  }
}

template <int vectors>
LAZULI_INLINE void pairsPanel(int64_t m, int64_t pairs, const float* a, const float* b, float* c,
                              float scale) {
  constexpr int64_t width = Simd<float>::width;
  for (int64_t i = 0; i < m; i += kTileRows) {
    F32 acc[kTileRows][vectors] = {};
    for (int64_t p = 0; p < pairs; p++) {
      F32 right[vectors];
      LAZULI_UNROLL
      for (int j = 0; j < vectors; j++) right[j] = load(b + p * kBlock + j * width);
      LAZULI_UNROLL
      for (int r = 0; r < kTileRows; r++) {
        int pair;
        __builtin_memcpy(&pair, a + p * kBlock + i + r, sizeof pair);
        const I32 left = I32{} + pair;
        LAZULI_UNROLL
        for (int j = 0; j < vectors; j++)
          acc[r][j] = (F32)_mm512_dpbf16_ps((__m512)acc[r][j], (__m512bh)left, (__m512bh)right[j]);
      }
    }
    LAZULI_UNROLL
    for (int r = 0; r < kTileRows; r++) LAZULI_UNROLL
    for (int j = 0; j < vectors; j++) store(c + (i + r) * kBlock + j * width, acc[r][j] * scale);
  }
}

/// c = scale * a · b, with m a multiple of 8 and n of 16, all with rows of 64.
inline void productOfPairs(int64_t m, int64_t n, int64_t pairs, const float* a, const float* b, float* c,
                           float scale) {
  constexpr int64_t width = Simd<float>::width;
  int64_t j = 0;
  for (; j + kTileVectors * width <= n; j += kTileVectors * width)
    pairsPanel<kTileVectors>(m, pairs, a, b + j, c + j, scale);
  for (; j < n; j += width) pairsPanel<1>(m, pairs, a, b + j, c + j, scale);
}
#endif

/// Rows as an operand of scores, [cols][64], times `scale`, but not where they are paired.
template <class T, class S>
LAZULI_INLINE void packScored(T* to, const S* from, int64_t stride, int64_t rows, int64_t cols,
                              int64_t paddedRows, T scale) {
  if constexpr (IsPaired<S>::value)
    packPairs(to, from, stride, rows, cols, paddedRows);
  else
    packTransposed<T>(to, kBlock, from, stride, rows, cols, paddedRows, scale);
}

/// [m][n] scores of packed rows. `scale` is that of `packScored`, of either operand.
template <class T, class S>
LAZULI_INLINE void score(int64_t m, int64_t n, int64_t depth, const T* a, const T* b, T* c, T scale) {
  if constexpr (IsPaired<S>::value)
    productOfPairs(m, n, (depth + 1) / 2, a, b, c, scale);
  else
    product<T, true, false>(m, n, depth, a, kBlock, b, kBlock, c, kBlock);
}

/// The least and the largest of some segments.
struct SegmentRange {
  int32_t low, high;

  SegmentRange(const int32_t* segments, int64_t count) : low(segments[0]), high(segments[0]) {
    for (int64_t i = 1; i < count; i++) {
      low = segments[i] < low ? segments[i] : low;
      high = segments[i] > high ? segments[i] : high;
    }
  }
  /// Whether none of these is one of those: a block of such is passed over.
  bool isApart(const SegmentRange& other) const { return high < other.low || other.high < low; }
  /// Whether all of these are all of those.
  bool isOne(const SegmentRange& other) const { return low == high && other.low == low && other.high == low; }
};

/// The segments of a block's queries or keys as lanes to compare.
template <class T>
struct SegmentLanes {
  using Lane = decltype(typename Simd<T>::Mask{}[0] + 0);
  Lane of[kBlock] = {};

  void set(const int32_t* segments, int64_t count) {
    for (int64_t i = 0; i < count; i++) of[i] = segments[i];
  }
  typename Simd<T>::Mask at(int64_t i) const {
    typename Simd<T>::Mask lanes;
    __builtin_memcpy(&lanes, of + i, sizeof lanes);
    return lanes;
  }
};

/// Calls f with a null pointer of the storage type and a zero of the work type.
template <class F>
LAZULI_INLINE void withTypes(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(static_cast<const double*>(nullptr), 0.0);
    case DType::bf16:
      return f(static_cast<const Bf16*>(nullptr), 0.0f);
    case DType::f16:
      return f(static_cast<const Half*>(nullptr), 0.0f);
    default:
      return f(static_cast<const float*>(nullptr), 0.0f);
  }
}

/// row[c] = scale * x[c], rounded to the storage type; x may be read up to a whole vector past `cols`.
template <class T, class S>
LAZULI_INLINE void storeRow(S* row, const T* x, T scale, int64_t cols) {
  for (int64_t c = 0; c < cols; c += Simd<T>::width) storePart<T>(row + c, load(x + c) * scale, cols - c);
}
