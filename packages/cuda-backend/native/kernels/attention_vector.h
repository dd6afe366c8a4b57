#pragma once

// What attention and its gradient share. Included inside `namespace lazuli::LAZULI_ISA`.

#include "kernels/gemm_vector.h"

constexpr int64_t kBlock = kAttentionBlock;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// isa/attention_grad.cpp; isa/attention.cpp has the table.
size_t attentionGradScratch(const AttentionShape& shape, int64_t keyStep);
void attentionGrad(const AttentionShape& shape, const AttentionGradTask& task);
void attentionGradQueries(const AttentionShape& shape, const void* sums, int64_t parts, int64_t partStride,
                          int64_t count, void* dq);

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
