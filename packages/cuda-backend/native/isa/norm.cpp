#include "kernels/norm_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T>
void rms(const NormTable::Forward& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const A* w = static_cast<const A*>(work.w);
  T* y = static_cast<T*>(work.y);
  const int64_t width = work.width;
  for (int64_t row = 0; row < work.rows; ++row, x += work.xStride, y += width) {
    A squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; ++i) squares += load(x[i]) * load(x[i]);
    const A r = 1 / sqrt_(squares / static_cast<A>(width) + static_cast<A>(work.eps));
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(y + i, load(x[i]) * r * w[i]);
  }
}

constexpr int64_t kPiece = 512;  // elements of a row

template <class Half>
inline void narrowTo(void* to, const float* from, int64_t begin, int64_t end) {
  Half* half = static_cast<Half*>(to);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) store(half + i, from[i]);
}

/// write(to, begin, end) for row `row` of gradients: into dx, or piece by piece to where a residual is added
/// to them. They are rounded to T first, as they would be in memory, and stay out of the sum's FMA.
template <class T, class Write>
inline void writeRow(const NormTable::Backward& work, int64_t row, Write write) {
  const int64_t width = work.width, first = row * width;
  T* dx = static_cast<T*>(work.dx) + first;
  const T* residual = static_cast<const T*>(work.residual);
  if (residual) residual += first;
  T room[kPiece];
  const int64_t step = residual ? kPiece : width;
  for (int64_t begin = 0; begin < width; begin += step) {
    const int64_t end = begin + step < width ? begin + step : width;
    write(residual ? room : dx, begin, end);
    if (!residual) return;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) store(dx + i, load(room[i - begin]) + load(residual[i]));
    if constexpr (sizeof(T) == sizeof(float)) {
      if (!work.narrow) continue;
      if (work.isBFloat16)
        narrowTo<BFloat16>(static_cast<BFloat16*>(work.narrow) + first, dx, begin, end);
      else
        narrowTo<Float16>(static_cast<Float16*>(work.narrow) + first, dx, begin, end);
    }
  }
}

// With h = x r: dx = r (g w - h mean(g w h)), dw += g h.
template <class T>
void rmsGrad(const NormTable::Backward& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const T* g = static_cast<const T*>(work.g);
  const A* w = static_cast<const A*>(work.w);
  A* dw = static_cast<A*>(work.dw);
  const int64_t width = work.width;
  const A size = static_cast<A>(width);
  for (int64_t row = 0; row < work.rows; ++row, x += work.xStride, g += work.gStride) {
    A squares = 0, dot = 0;
#pragma omp simd reduction(+ : squares, dot)
    for (int64_t i = 0; i < width; ++i) {
      const A xi = load(x[i]);
      squares += xi * xi;
      dot += load(g[i]) * w[i] * xi;
    }
    const A r = 1 / sqrt_(squares / size + static_cast<A>(work.eps));
    const A mean = dot * r / size;
    writeRow<T>(work, row, [&](T* to, int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const A h = load(x[i]) * r, gi = load(g[i]);
        dw[i] += gi * h;
        store(to + (i - begin), r * (gi * w[i] - h * mean));
      }
    });
  }
}

template <class T>
struct Moments {
  Accumulator<T> mean, inverse;  // 1 / sqrt(variance + eps)
};
template <class T>
inline Moments<T> momentsOf(const T* x, int64_t width, double eps) {
  using A = Accumulator<T>;
  const A size = static_cast<A>(width);
  A sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += load(x[i]);
  const A mean = sum / size;
  // What the rounded mean missed is seen in the centred values (the corrected two-pass algorithm, Chan et al.
  // 1983).
#pragma omp simd reduction(+ : rest, squares)
  for (int64_t i = 0; i < width; ++i) {
    const A centred = load(x[i]) - mean;
    rest += centred;
    squares += centred * centred;
  }
  const A shift = rest / size;
  const A variance = squares / size - shift * shift;
  return {mean + shift, 1 / sqrt_((variance > 0 ? variance : 0) + static_cast<A>(eps))};
}

template <class T>
void layer(const NormTable::Forward& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const A* w = static_cast<const A*>(work.w);
  const A* b = static_cast<const A*>(work.b);
  T* y = static_cast<T*>(work.y);
  const int64_t width = work.width;
  for (int64_t row = 0; row < work.rows; ++row, x += work.xStride, y += width) {
    const Moments<T> m = momentsOf(x, width, work.eps);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(y + i, (load(x[i]) - m.mean) * m.inverse * w[i] + b[i]);
  }
}

// With h the normalised x: dx = (g w - mean(g w) - h mean(g w h)) / std, dw += g h, db += g.
template <class T>
void layerGrad(const NormTable::Backward& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const T* g = static_cast<const T*>(work.g);
  const A* w = static_cast<const A*>(work.w);
  A* dw = static_cast<A*>(work.dw);
  A* db = static_cast<A*>(work.db);
  const int64_t width = work.width;
  const A size = static_cast<A>(width);
  for (int64_t row = 0; row < work.rows; ++row, x += work.xStride, g += work.gStride) {
    const Moments<T> m = momentsOf(x, width, work.eps);
    A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < width; ++i) {
      const A gw = load(g[i]) * w[i];
      sum += gw;
      dot += gw * (load(x[i]) - m.mean);
    }
    const A mean = sum / size, slope = dot * m.inverse / size;
    writeRow<T>(work, row, [&](T* to, int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const A h = (load(x[i]) - m.mean) * m.inverse, gi = load(g[i]);
        dw[i] += gi * h;
        db[i] += gi;
        store(to + (i - begin), m.inverse * (gi * w[i] - mean - h * slope));
      }
    });
  }
}

template <class A>
void addVectors(void* sums, const void* vectors, int64_t stride, int64_t count, int64_t n) {
  A* sum = static_cast<A*>(sums);
  const A* x = static_cast<const A*>(vectors);
  for (int64_t k = 0; k < count; ++k, x += stride) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
  }
}

}  // namespace

const NormTable& normTable() {
  static constexpr NormTable table = {
      {rms<float>, rms<double>, rms<BFloat16>, rms<Float16>},
      {layer<float>, layer<double>, layer<BFloat16>, layer<Float16>},
      {rmsGrad<float>, rmsGrad<double>, rmsGrad<BFloat16>, rmsGrad<Float16>},
      {layerGrad<float>, layerGrad<double>, layerGrad<BFloat16>, layerGrad<Float16>},
      {addVectors<float>, addVectors<double>},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
