#include "online_sum.h"
#include "rows.h"
#include "softmax.h"

namespace lazuli::cuda {

template <class T, bool kWhole>
LAZULI_DEVICE void softmax(const SoftmaxArgs& args) {
  using A = Accumulator<T>;
  constexpr int kCount = Pack<T>::kCount;
  Group group(args.shape.lanes);
  // Groups past the last row go along, with nothing in theirs.
  const bool isRow = group.row < args.shape.rows;
  const int64_t width = isRow ? args.shape.width : 0, row = isRow ? group.row : 0;
  RowReader<T, kRowPacks, kWhole> x(group, static_cast<const T*>(args.x.data) + row * args.x.stride, width,
                                    args.x.aligned);
  A top, sum;
  if constexpr (kWhole) {
    A largest = lowest<A>(), part = 0;
    x.each([&](A value) { largest = value > largest ? value : largest; });
    top = group.largest(largest);
    x.each([&](A value) { part += exp_of(value - top); });
    sum = group.sum(part);
  } else {
    OnlineSum<A> online;
    x.eachPack([&](auto first, const Pack<T>& pack, int) { online.add(pack, x.left(first)); });
    top = group.largest(online.top);
    sum = group.sum(online.from(top));
  }
  const A scale = 1 / sum, logSum = args.log ? log_of(sum) : A(0);
  T* y = static_cast<T*>(args.y.data) + row * args.y.stride;
  x.eachPack([&](auto first, const Pack<T>& pack, int) {
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const A less = load(pack.at[i]) - top;
      store(&out.at[i], args.log ? less - logSum : exp_of(less) * scale);
    }
    storeElements(y, first, x.width, args.y.aligned, out);
  });
}

template <class T, bool kWhole>
LAZULI_DEVICE void softmaxGrad(const SoftmaxGradArgs& args) {
  using A = Accumulator<T>;
  constexpr int kCount = Pack<T>::kCount;
  using Reader = RowReader<T, kRowPairPacks, kWhole>;
  Group group(args.shape.lanes);
  const bool isRow = group.row < args.shape.rows;
  const int64_t width = isRow ? args.shape.width : 0, row = isRow ? group.row : 0;
  Reader y(group, static_cast<const T*>(args.y.data) + row * args.y.stride, width, args.y.aligned);
  Reader g(group, static_cast<const T*>(args.g.data) + row * args.g.stride, width, args.g.aligned);
  A part = 0;
  eachPack(y, g, [&](auto, const Pack<T>& ys, const Pack<T>& gs, int) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) part += args.log ? load(gs.at[i]) : load(ys.at[i]) * load(gs.at[i]);
  });
  const A sum = group.sum(part);
  T* dx = static_cast<T*>(args.dx.data) + row * args.dx.stride;
  eachPack(y, g, [&](auto first, const Pack<T>& ys, const Pack<T>& gs, int) {
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const A yi = load(ys.at[i]), gi = load(gs.at[i]);
      store(&out.at[i], args.log ? gi - exp_of(yi) * sum : yi * (gi - sum));
    }
    storeElements(dx, first, y.width, args.dx.aligned, out);
  });
}

#define LAZULI_SOFTMAX(suffix, T)                                                                     \
  LAZULI_KERNEL(lazuli_softmax_whole_##suffix, SoftmaxArgs, kRowThreads) { softmax<T, true>(args); }  \
  LAZULI_KERNEL(lazuli_softmax_parts_##suffix, SoftmaxArgs, kRowThreads) { softmax<T, false>(args); } \
  LAZULI_KERNEL(lazuli_softmax_grad_whole_##suffix, SoftmaxGradArgs, kRowThreads) {                   \
    softmaxGrad<T, true>(args);                                                                       \
  }                                                                                                   \
  LAZULI_KERNEL(lazuli_softmax_grad_parts_##suffix, SoftmaxGradArgs, kRowThreads) {                   \
    softmaxGrad<T, false>(args);                                                                      \
  }
LAZULI_FLOATS(LAZULI_SOFTMAX)

}  // namespace lazuli::cuda
