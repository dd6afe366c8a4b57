#include "collectives/reduce_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

/// Elements whose running results stay in L1 while the members are gone through.
constexpr int64_t kChunk = 512;

struct Sum {
  template <class A>
  static A apply(A a, A b) {
    return static_cast<A>(a + b);
  }
};
struct Prod {
  template <class A>
  static A apply(A a, A b) {
    return static_cast<A>(a * b);
  }
};
// NaN wins, as in maximum and minimum.
struct Max {
  template <class A>
  static A apply(A a, A b) {
    return (a > b) | (a != a) ? a : b;
  }
};
struct Min {
  template <class A>
  static A apply(A a, A b) {
    return (a < b) | (a != a) ? a : b;
  }
};

/// What T is combined in: integers wrap as unsigned ones, and are compared as what they are.
template <class T, class Kind>
struct Work {
  using Type = Accumulator<T>;
  static Type get(T x) { return load(x); }
  static void put(T* to, Type x) { store(to, x); }
};
template <class T>
struct Signed {
  using Type = T;
  static T get(T x) { return x; }
  static void put(T* to, T x) { *to = x; }
};
template <>
struct Work<int32_t, Max> : Signed<int32_t> {};
template <>
struct Work<int32_t, Min> : Signed<int32_t> {};
template <>
struct Work<int64_t, Max> : Signed<int64_t> {};
template <>
struct Work<int64_t, Min> : Signed<int64_t> {};

template <class T, class Kind>
void combine(const std::byte* const* members, size_t count, size_t offset, void* result, int64_t n) {
  using W = Work<T, Kind>;
  using A = typename W::Type;
  const auto member = [&](size_t m) { return reinterpret_cast<const T*>(members[m] + offset); };
  T* to = static_cast<T*>(result);
  if (count == 2) {
    const T* a = member(0);
    const T* b = member(1);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) W::put(to + i, Kind::apply(W::get(a[i]), W::get(b[i])));
    return;
  }
  A sums[kChunk];
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t length = n - start < kChunk ? n - start : kChunk;
    const T* first = member(0) + start;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) sums[i] = W::get(first[i]);
    for (size_t m = 1; m < count; ++m) {
      const T* x = member(m) + start;
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) sums[i] = Kind::apply(sums[i], W::get(x[i]));
    }
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) W::put(to + start + i, sums[i]);
  }
}

}  // namespace

const ReduceTable& reduceTable() {
  // bool is a byte of 0 or 1: its max is or, its min and.
#define LAZULI_KIND(K, OfBool)                                                                             \
  {                                                                                                        \
    combine<float, K>, combine<double, K>, combine<BFloat16, K>, combine<Float16, K>, combine<int32_t, K>, \
        combine<int64_t, K>, combine<uint8_t, K>, OfBool                                                   \
  }
  static constexpr ReduceTable table = {{LAZULI_KIND(Sum, nullptr), LAZULI_KIND(Prod, nullptr),
                                         LAZULI_KIND(Max, (combine<uint8_t, Max>)),
                                         LAZULI_KIND(Min, (combine<uint8_t, Min>))}};
#undef LAZULI_KIND
  return table;
}

}  // namespace lazuli::LAZULI_ISA
