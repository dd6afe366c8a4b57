#include "kernels/softmax_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T>
void softmax(const void* xs, int64_t xStride, void* ys, int64_t rows, int64_t width) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(xs);
  T* y = static_cast<T*>(ys);
  for (int64_t row = 0; row < rows; ++row, x += xStride, y += width) {
    const A top = largest(x, width);
    A sum = 0;
    if constexpr (sizeof(T) == sizeof(A)) {
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) {
        const A e = exp_(x[i] - top);
        sum += e;
        y[i] = e;
      }
      const A scale = 1 / sum;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) y[i] *= scale;
    } else {  // the halves would round twice
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) sum += exp_(load(x[i]) - top);
      const A scale = 1 / sum;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(y + i, exp_(load(x[i]) - top) * scale);
    }
  }
}

template <class T>
void logSoftmax(const void* xs, int64_t xStride, void* ys, int64_t rows, int64_t width) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(xs);
  T* y = static_cast<T*>(ys);
  for (int64_t row = 0; row < rows; ++row, x += xStride, y += width) {
    const A top = largest(x, width);
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += exp_(load(x[i]) - top);
    const A logSum = log_(sum);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(y + i, (load(x[i]) - top) - logSum);
  }
}

template <class T>
void softmaxGrad(const void* ys, int64_t yStride, const void* gs, int64_t gStride, void* dxs, int64_t rows,
                 int64_t width) {
  using A = Accumulator<T>;
  const T* y = static_cast<const T*>(ys);
  const T* g = static_cast<const T*>(gs);
  T* dx = static_cast<T*>(dxs);
  for (int64_t row = 0; row < rows; ++row, y += yStride, g += gStride, dx += width) {
    A dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) dot += load(y[i]) * load(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(dx + i, load(y[i]) * (load(g[i]) - dot));
  }
}

template <class T>
void logSoftmaxGrad(const void* ys, int64_t yStride, const void* gs, int64_t gStride, void* dxs, int64_t rows,
                    int64_t width) {
  using A = Accumulator<T>;
  const T* y = static_cast<const T*>(ys);
  const T* g = static_cast<const T*>(gs);
  T* dx = static_cast<T*>(dxs);
  for (int64_t row = 0; row < rows; ++row, y += yStride, g += gStride, dx += width) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += load(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(dx + i, load(g[i]) - exp_(load(y[i])) * sum);
  }
}

}  // namespace

const SoftmaxTable& softmaxTable() {
  static constexpr SoftmaxTable table = {
      {softmax<float>, softmax<double>, softmax<BFloat16>, softmax<Float16>},
      {logSoftmax<float>, logSoftmax<double>, logSoftmax<BFloat16>, logSoftmax<Float16>},
      {softmaxGrad<float>, softmaxGrad<double>, softmaxGrad<BFloat16>, softmaxGrad<Float16>},
      {logSoftmaxGrad<float>, logSoftmaxGrad<double>, logSoftmaxGrad<BFloat16>, logSoftmaxGrad<Float16>},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
