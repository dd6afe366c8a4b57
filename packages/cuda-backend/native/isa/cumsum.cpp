#include "kernels/cumsum_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T>
void line(const void* xs, void* ys, int64_t n, bool reverse, void* carry) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(xs);
  T* y = static_cast<T*>(ys);
  A sum = *static_cast<A*>(carry);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t i = reverse ? n - 1 - k : k;
    sum = static_cast<A>(sum + load(x[i]));
    store(y + i, sum);
  }
  *static_cast<A*>(carry) = sum;
}

template <class T>
void total(const void* xs, int64_t n, void* carry) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(xs);
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum = static_cast<A>(sum + load(x[i]));
  A* to = static_cast<A*>(carry);
  *to = static_cast<A>(*to + sum);
}

template <class T>
void columns(const void* xs, void* ys, int64_t n, int64_t stride, int64_t count, bool reverse) {
  using A = Accumulator<T>;
  constexpr int64_t kBlock = 256;
  alignas(64) A sum[kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t width = count - first < kBlock ? count - first : kBlock;
    for (int64_t i = 0; i < width; ++i) sum[i] = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t row = (reverse ? n - 1 - k : k) * stride + first;
      const T* x = static_cast<const T*>(xs) + row;
      T* y = static_cast<T*>(ys) + row;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        sum[i] = static_cast<A>(sum[i] + load(x[i]));
        store(y + i, sum[i]);
      }
    }
  }
}

}  // namespace

#define LAZULI_BY_DTYPE(f) \
  { f<float>, f<double>, f<BFloat16>, f<Float16>, f<int32_t>, f<int64_t>, f<uint8_t> }

const CumsumTable& cumsumTable() {
  static constexpr CumsumTable table = {LAZULI_BY_DTYPE(line), LAZULI_BY_DTYPE(total),
                                        LAZULI_BY_DTYPE(columns)};
  return table;
}

}  // namespace lazuli::LAZULI_ISA
