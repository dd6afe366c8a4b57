#include "kernels/gemm.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/gemm_epilogue.h"

namespace {

constexpr int kMostRows = 4;
constexpr int kLines = 4;  // of b at a time: streams that the prefetcher follows, and independent sums

/// sums[i * ld + c] = row i of a · column c of b, where a column is contiguous.
template <class T, class In, int rows>
void dotColumns(const T* a, const In* b, int64_t bCol, T* sums, int64_t ld, int64_t n, int64_t k) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t c = 0; c < n; c += kLines) {
    const int64_t count = least(kLines, n - c);
    Vec<T> acc[rows][kLines] = {};
    const In* line[kLines];
    for (int j = 0; j < kLines; j++) line[j] = b + (c + least(j, count - 1)) * bCol;
    int64_t p = 0;
    for (; p + width <= k; p += width) LAZULI_UNROLL
    for (int j = 0; j < kLines; j++) {
      const Vec<T> y = load(line[j] + p);
      LAZULI_UNROLL
      for (int i = 0; i < rows; i++) acc[i][j] += load(a + i * k + p) * y;
    }
    if (p < k)
      for (int j = 0; j < kLines; j++) {
        const Vec<T> y = loadPart<T>(line[j] + p, k - p);
        for (int i = 0; i < rows; i++) acc[i][j] += loadPart<T>(a + i * k + p, k - p) * y;
      }
    for (int i = 0; i < rows; i++)
      for (int64_t j = 0; j < count; j++) {
        T sum = 0;
        for (int lane = 0; lane < width; lane++) sum += acc[i][j][lane];
        sums[i * ld + c + j] = sum;
      }
  }
}

/// The same where a row of b is contiguous: kLines rows, scaled, are added to the sums at a time.
template <class T, class In, int rows>
void addRows(const T* a, const In* b, int64_t bRow, T* sums, int64_t ld, int64_t n, int64_t k) {
  constexpr int64_t width = Simd<T>::width;
  for (int i = 0; i < rows; i++) __builtin_memset(sums + i * ld, 0, static_cast<size_t>(n) * sizeof(T));
  for (int64_t p = 0; p < k; p += kLines) {
    const int64_t count = least(kLines, k - p);
    T x[rows][kLines] = {};
    for (int i = 0; i < rows; i++)
      for (int64_t j = 0; j < count; j++) x[i][j] = a[i * k + p + j];
    if (count == kLines) {
      int64_t c = 0;
      for (; c + width <= n; c += width) {
        Vec<T> y[kLines];
        LAZULI_UNROLL
        for (int j = 0; j < kLines; j++) y[j] = load(b + (p + j) * bRow + c);
        LAZULI_UNROLL
        for (int i = 0; i < rows; i++) {
          Vec<T> sum = load(sums + i * ld + c);
          LAZULI_UNROLL
          for (int j = 0; j < kLines; j++) sum += y[j] * x[i][j];
          store(sums + i * ld + c, sum);
        }
      }
      if (c < n)
        for (int j = 0; j < kLines; j++) {
          const Vec<T> y = loadPart<T>(b + (p + j) * bRow + c, n - c);
          for (int i = 0; i < rows; i++)
            storePart<T>(sums + i * ld + c, loadPart<T>(sums + i * ld + c, n - c) + y * x[i][j], n - c);
        }
    } else {
      for (int64_t j = 0; j < count; j++)
        for (int64_t c = 0; c < n; c += width) {
          const Vec<T> y = loadPart<T>(b + (p + j) * bRow + c, n - c);
          for (int i = 0; i < rows; i++)
            storePart<T>(sums + i * ld + c, loadPart<T>(sums + i * ld + c, n - c) + y * x[i][j], n - c);
        }
    }
  }
}

template <class T, class In, int rows>
void sumRows(const GemmBlock& g, const T* a, T* sums) {
  const In* b = static_cast<const In*>(g.b);
  if (g.bRow == 1)
    dotColumns<T, In, rows>(a, b, g.bCol, sums, g.n, g.n, g.k);
  else
    addRows<T, In, rows>(a, b, g.bRow, sums, g.n, g.n, g.k);
}

template <class T, class In, class Out>
void runTyped(const GemmBlock& g) {
  T* a = reinterpret_cast<T*>(g.scratch);
  T* sums = a + g.m * g.k;
  const In* from = static_cast<const In*>(g.a);
  for (int64_t i = 0; i < g.m; i++) {
    if (g.aCol == 1) {
      packRows<T>(a + i * g.k, g.k, from + i * g.aRow, g.aRow, 1, g.k / Simd<T>::width * Simd<T>::width, 0);
    }
    for (int64_t p = g.aCol == 1 ? g.k / Simd<T>::width * Simd<T>::width : 0; p < g.k; p++) {
      In one[Simd<T>::width] = {};
      one[0] = from[i * g.aRow + p * g.aCol];
      a[i * g.k + p] = load(one)[0];
    }
  }
  switch (g.m) {
    case 1:
      sumRows<T, In, 1>(g, a, sums);
      break;
    case 2:
      sumRows<T, In, 2>(g, a, sums);
      break;
    case 3:
      sumRows<T, In, 3>(g, a, sums);
      break;
    default:
      sumRows<T, In, kMostRows>(g, a, sums);
  }
  const Out* bias = static_cast<const Out*>(g.epilogue.bias);
  const Out* residual = static_cast<const Out*>(g.epilogue.residual);
  Out* c = static_cast<Out*>(g.c);
  for (int64_t i = 0; i < g.m; i++)
    for (int64_t j = 0; j < g.n; j += Simd<T>::width) {
      const int64_t at = i * g.cRow + j, count = g.n - j;
      finish<T, Out>(loadPart<T>(sums + i * g.n + j, count), c + at, count, bias ? bias + j : nullptr,
                     g.epilogue.activation, residual ? residual + at : nullptr);
    }
}

}  // namespace

bool gemmIsSkinny(GemmTypes, int64_t m, int64_t bRow, int64_t bCol) {
  return m >= 1 && m <= kMostRows && (bRow == 1 || bCol == 1);
}

size_t gemmSkinnyScratch(GemmTypes types, int64_t m, int64_t n, int64_t k) {
  return static_cast<size_t>(m * (n + k)) * (types.in == DType::f64 ? 8 : 4);
}

void gemmSkinny(GemmTypes types, const GemmBlock& block) {
  const bool wide = types.out == DType::f32;
  switch (types.in) {
    case DType::f64:
      return runTyped<double, double, double>(block);
    case DType::bf16:
      return wide ? runTyped<float, Bf16, float>(block) : runTyped<float, Bf16, Bf16>(block);
    case DType::f16:
      return wide ? runTyped<float, Half, float>(block) : runTyped<float, Half, Half>(block);
    default:
      return runTyped<float, float, float>(block);
  }
}

}  // namespace lazuli::LAZULI_ISA
