#include "kernels/convert.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T, class A>
void widen(const void* from, A* to, int64_t n) {
  const T* x = static_cast<const T*>(from);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(load(x[i]));
}

template <class T, class A>
void narrow(const A* from, void* to, int64_t n) {
  T* y = static_cast<T*>(to);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, static_cast<Accumulator<T>>(from[i]));
}

}  // namespace

const ConvertTable& convertTable() {
  static constexpr ConvertTable table = {
      {widen<float>, widen<double>, widen<BFloat16>, widen<Float16>},
      {widen<float>, widen<double>, widen<BFloat16>, widen<Float16>},
      {narrow<float>, narrow<double>, narrow<BFloat16>, narrow<Float16>},
      {narrow<float>, narrow<double>, narrow<BFloat16>, narrow<Float16>},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
