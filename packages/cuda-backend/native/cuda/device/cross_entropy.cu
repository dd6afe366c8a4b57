#include "cross_entropy_row.h"

namespace lazuli::cuda {

template <class T>
LAZULI_DEVICE void crossEntropy(const CrossEntropyArgs& args) {
  Group group(args.shape.lanes);
  // Groups past the last row go along, with nothing in theirs.
  const bool isRow = group.row < args.shape.rows;
  const int64_t width = isRow ? args.shape.width : 0, row = isRow ? group.row : 0;
  RowReader<T, kRowPacks, false> x(group, static_cast<const T*>(args.x.data) + row * args.x.stride, width,
                                   args.x.aligned);
  const RowLoss loss = lossOf(group, x, args.targets, isRow, row, args.smoothing);
  if (!isRow || group.lane != 0) return;
  args.loss[row] = loss.loss;
  args.lse[row] = static_cast<float>(loss.lse);
}

template <class T>
LAZULI_DEVICE void crossEntropyGrad(const CrossEntropyGradArgs& args) {
  Group group(args.shape.lanes);
  if (group.row >= args.shape.rows) return;
  const int64_t width = args.shape.width, row = group.row;
  T* dx = static_cast<T*>(args.dx.data) + row * args.dx.stride;
  RowReader<T, kRowPacks, false> x(group, static_cast<const T*>(args.x.data) + row * args.x.stride, width,
                                   args.x.aligned);
  const LogitGradient<Accumulator<T>> gradient(args.lse[row], args.g[row], args.smoothing, width,
                                               targetOf(args.targets, row, width));
  x.eachPack([&](int64_t first, const Pack<T>& pack, int) {
    storeElements(dx, first, width, args.dx.aligned, gradient.template of<T>(pack, first));
  });
}

#define LAZULI_CROSS_ENTROPY(suffix, T)                                                                  \
  LAZULI_KERNEL(lazuli_cross_entropy_##suffix, CrossEntropyArgs, kRowThreads) { crossEntropy<T>(args); } \
  LAZULI_KERNEL(lazuli_cross_entropy_grad_##suffix, CrossEntropyGradArgs, kRowThreads) {                 \
    crossEntropyGrad<T>(args);                                                                           \
  }
LAZULI_FLOATS(LAZULI_CROSS_ENTROPY)

}  // namespace lazuli::cuda
