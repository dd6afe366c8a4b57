#pragma once

#include "dtype.h"

namespace lazuli::cuda {

/// sum(exp(x)) of what is seen once: the largest so far, and the sum from there (Milakov and Gimelshein,
/// "Online normalizer calculation for softmax", 2018). NaN makes the sum NaN and is not the largest.
template <class A>
struct OnlineSum {
  A top = lowest<A>(), sum = 0;

  /// -inf less itself would be NaN.
  static LAZULI_DEVICE A origin(A top) { return top == lowest<A>() ? A(0) : top; }

  /// The first `count` elements of a pack.
  template <class T>
  LAZULI_DEVICE void add(const Pack<T>& pack, int count) {
    A largest = top;
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i) {
      const A value = load(pack.at[i]);
      if (i < count && value > largest) largest = value;
    }
    if (largest > top) {
      sum *= exp_of(top - largest);
      top = largest;
    }
    const A zero = origin(top);
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i)
      if (i < count) sum += exp_of(load(pack.at[i]) - zero);
  }
  /// The sum as taken from a larger one's top.
  LAZULI_DEVICE A from(A largest) const { return sum * exp_of(top - origin(largest)); }
};

}  // namespace lazuli::cuda
