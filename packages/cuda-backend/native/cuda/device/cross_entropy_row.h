#pragma once

// What kernels of cross entropy, alone and behind a linear layer, have in common.

#include "cross_entropy.h"
#include "online_sum.h"
#include "rows.h"
#include "walk.h"

namespace lazuli::cuda {

/// A row's target in [0, classes); -1 where the row is ignored, or its target is none, which leaves a fault.
LAZULI_DEVICE int64_t targetOf(const Targets& targets, int64_t row, int64_t classes) {
  const int64_t target = indexAt(targets.data, targets.wide, row);
  if (target == targets.ignored) return -1;
  if (target >= 0 && target < classes) return target;
  leaveFault(targets.fault, targets.step, target, classes, row);
  return -1;
}

/// A row of logits, in a pass over it: every logit is read once.
struct RowLoss {
  double lse;
  float loss;
  int64_t target;  // -1: none
};
template <class T>
LAZULI_DEVICE RowLoss lossOf(Group& group, RowReader<T, kRowPacks, false>& x, const Targets& targets,
                             bool isRow, int64_t row, double smoothing) {
  using A = Accumulator<T>;
  OnlineSum<A> online;
  A part = 0;
  x.eachPack([&](int64_t first, const Pack<T>& pack, int) {
    online.add(pack, x.left(first));
    if (smoothing == 0) return;
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i) part += load(pack.at[i]);
  });
  const A top = group.largest(online.top), sum = group.sum(online.from(top));
  const A total = smoothing == 0 ? A(0) : group.sum(part);
  const double lse = static_cast<double>(OnlineSum<A>::origin(top)) + static_cast<double>(log_of(sum));
  const int64_t target = isRow ? targetOf(targets, row, x.width) : -1;
  if (target < 0) return {lse, 0, -1};
  double value = lse - static_cast<double>(load(x.from[target]));
  // Apart from smoothing 0, so that a logit of -inf that is no target costs nothing.
  if (smoothing != 0) {
    const double mean = lse - static_cast<double>(total) / static_cast<double>(x.width);
    value = (1 - smoothing) * value + smoothing * mean;
  }
  return {lse, static_cast<float>(value), target};
}

/// factor * (exp(x - lse) - less), and factor * peak less at the target; 0 where there is none.
template <class A>
struct LogitGradient {
  A lse, factor, less, peak;
  int64_t target;

  LAZULI_DEVICE LogitGradient(double lse, float g, double smoothing, int64_t width, int64_t target)
      : lse(static_cast<A>(lse)),
        factor(static_cast<A>(g)),
        less(static_cast<A>(smoothing / static_cast<double>(width))),
        peak(static_cast<A>(1 - smoothing)),
        target(target) {}

  template <class To, class T>
  LAZULI_DEVICE Elements<To, Pack<T>::kCount> of(const Pack<T>& pack, int64_t first) const {
    Elements<To, Pack<T>::kCount> out{};
    if (target < 0) return out;
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i) {
      const A rest = exp_of(load(pack.at[i]) - lse) - less;
      store(&out.at[i], factor * (first + i == target ? rest - peak : rest));
    }
    return out;
  }
};

}  // namespace lazuli::cuda
