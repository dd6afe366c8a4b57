#include "kernels/rope_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T, class C>
void halves(const RopeTable::Work& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const C* cos = static_cast<const C*>(work.cos);
  const C* sin = static_cast<const C*>(work.sin);
  T* y = static_cast<T*>(work.y);
  const int64_t half = work.width / 2;
  const A sign = work.inverse ? A(-1) : A(1);
  for (int64_t row = 0; row < work.rows;
       ++row, x += work.xStride, y += work.yStride, cos += half, sin += half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const A a = load(x[i]), b = load(x[i + half]);
      const A c = static_cast<A>(load(cos[i])), s = sign * static_cast<A>(load(sin[i]));
      store(y + i, a * c - b * s);
      store(y + i + half, b * c + a * s);
    }
  }
}

template <class T, class C>
void interleaved(const RopeTable::Work& work) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(work.x);
  const C* cos = static_cast<const C*>(work.cos);
  const C* sin = static_cast<const C*>(work.sin);
  T* y = static_cast<T*>(work.y);
  const int64_t half = work.width / 2;
  const A sign = work.inverse ? A(-1) : A(1);
  for (int64_t row = 0; row < work.rows;
       ++row, x += work.xStride, y += work.yStride, cos += half, sin += half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const A a = load(x[2 * i]), b = load(x[2 * i + 1]);
      const A c = static_cast<A>(load(cos[i])), s = sign * static_cast<A>(load(sin[i]));
      store(y + 2 * i, a * c - b * s);
      store(y + 2 * i + 1, b * c + a * s);
    }
  }
}

}  // namespace

const RopeTable& ropeTable() {
  static constexpr RopeTable table = {
      {{halves<float, float>, halves<float, float>},
       {halves<double, double>, halves<double, float>},
       {halves<BFloat16, BFloat16>, halves<BFloat16, float>},
       {halves<Float16, Float16>, halves<Float16, float>}},
      {{interleaved<float, float>, interleaved<float, float>},
       {interleaved<double, double>, interleaved<double, float>},
       {interleaved<BFloat16, BFloat16>, interleaved<BFloat16, float>},
       {interleaved<Float16, Float16>, interleaved<Float16, float>}},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
