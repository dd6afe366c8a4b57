#include "cross_entropy_row.h"
#include "linear_cross_entropy.h"

namespace lazuli::cuda {

template <class T, class To>
LAZULI_DEVICE void linearCrossEntropy(const LinearCrossEntropyArgs& args) {
  Group group(args.shape.lanes);
  // Groups past the last row go along, with nothing in theirs.
  const bool isRow = group.row < args.shape.rows;
  const int64_t width = isRow ? args.shape.width : 0, row = isRow ? group.row : 0,
                whole = args.firstRow + row;
  RowReader<T, kRowPacks, false> x(group, static_cast<const T*>(args.logits.data) + row * args.logits.stride,
                                   width, args.logits.aligned);
  const RowLoss loss = lossOf(group, x, args.targets, isRow, whole, args.smoothing);
  if (isRow && group.lane == 0) {
    args.loss[whole] = loss.loss;
    args.lse[whole] = static_cast<float>(loss.lse);
  }
  if (!args.dlogits.data) return;
  // Every thread has read the target's logit, which another may now write over.
  if (args.shape.lanes > 32)
    __syncthreads();
  else
    __syncwarp();
  To* dx = static_cast<To*>(args.dlogits.data) + row * args.dlogits.stride;
  const LogitGradient<Accumulator<T>> gradient(loss.lse, isRow ? args.g[whole] : 0, args.smoothing, width,
                                               loss.target);
  x.eachPack([&](int64_t first, const Pack<T>& pack, int) {
    storeElements(dx, first, width, args.dlogits.aligned, gradient.template of<To>(pack, first));
  });
}

template <class To>
LAZULI_DEVICE void roundSums(const RoundArgs& args) {
  constexpr int kCount = 8;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x) * kCount;
  if (first >= args.n) return;
  const int64_t n = args.n;
  const auto sums = loadElements<kCount>(args.from, first, n, true);
  Elements<To, kCount> out;
#pragma unroll
  for (int i = 0; i < kCount; ++i) store(&out.at[i], sums.at[i]);
  storeElements(static_cast<To*>(args.to), first, n, true, out);
}

// Named for the operands' dtype; logits beside half types are float32.
#define LAZULI_LINEAR_CROSS_ENTROPY(suffix, T, To)                                           \
  LAZULI_KERNEL(lazuli_linear_cross_entropy_##suffix, LinearCrossEntropyArgs, kRowThreads) { \
    linearCrossEntropy<T, To>(args);                                                         \
  }
LAZULI_LINEAR_CROSS_ENTROPY(f32, float, float)
LAZULI_LINEAR_CROSS_ENTROPY(f64, double, double)
LAZULI_LINEAR_CROSS_ENTROPY(bf16, float, BFloat16)
LAZULI_LINEAR_CROSS_ENTROPY(f16, float, Float16)

LAZULI_KERNEL(lazuli_round_bf16, RoundArgs, 256) { roundSums<BFloat16>(args); }
LAZULI_KERNEL(lazuli_round_f16, RoundArgs, 256) { roundSums<Float16>(args); }

}  // namespace lazuli::cuda
