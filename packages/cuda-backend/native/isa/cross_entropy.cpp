#include "kernels/cross_entropy_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

constexpr int64_t kBlock = 2048;  // elements: in L1 for a second look
// An element may exceed the origin that exponentials are taken from by this much, far from what overflows.
constexpr float kHeadroom = 30;

/// One pass: the origin is the largest of the first block, and moves only for a block that exceeds it by far,
/// so that each element is read once, while the next ones come from memory.
template <class T>
CrossEntropyTable::Sums reduce(const void* logits, int64_t width, bool wantTotal) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(logits);
  const A lowest = -static_cast<A>(__builtin_inff());
  A top = largest(x, width < kBlock ? width : kBlock);
  A origin = top == lowest ? 0 : top;  // -inf less itself would be NaN
  A sum = 0, total = 0;
  for (int64_t begin = 0; begin < width; begin += kBlock, x += kBlock) {
    const int64_t n = width - begin < kBlock ? width - begin : kBlock;
    A blockSum = 0, blockTop = lowest;
#pragma omp simd reduction(+ : blockSum) reduction(max : blockTop)
    for (int64_t i = 0; i < n; ++i) {
      const A value = load(x[i]);
      blockTop = value > blockTop ? value : blockTop;
      blockSum += exp_(value - origin);
    }
    if (blockTop > top + kHeadroom) {
      sum *= exp_(top - blockTop);
      top = origin = blockTop;
      blockSum = 0;
#pragma omp simd reduction(+ : blockSum)
      for (int64_t i = 0; i < n; ++i) blockSum += exp_(load(x[i]) - origin);
    }
    sum += blockSum;
    if (wantTotal) {
      A blockTotal = 0;
#pragma omp simd reduction(+ : blockTotal)
      for (int64_t i = 0; i < n; ++i) blockTotal += load(x[i]);
      total += blockTotal;
    }
  }
  return {static_cast<double>(origin) + static_cast<double>(log_(sum)), static_cast<double>(total)};
}

template <class T, class To = T>
void gradient(const void* logits, void* to, int64_t width, int64_t target, double lse, double scale,
              double uniform, double peak) {
  using A = Accumulator<T>;
  const T* x = static_cast<const T*>(logits);
  To* dx = static_cast<To*>(to);
  const A shift = static_cast<A>(lse), factor = static_cast<A>(scale), less = static_cast<A>(uniform);
  const A atTarget = target < 0 ? 0 : factor * (exp_(load(x[target]) - shift) - less - static_cast<A>(peak));
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) store(dx + i, factor * (exp_(load(x[i]) - shift) - less));
  if (target >= 0) store(dx + target, atTarget);
}

}  // namespace

const CrossEntropyTable& crossEntropyTable() {
  static constexpr CrossEntropyTable table = {
      {reduce<float>, reduce<double>, reduce<BFloat16>, reduce<Float16>},
      {gradient<float>, gradient<double>, gradient<BFloat16>, gradient<Float16>},
      {gradient<float>, gradient<double>, gradient<float, BFloat16>, gradient<float, Float16>},
  };
  return table;
}

}  // namespace lazuli::LAZULI_ISA
