#pragma once

#include "cross_entropy.h"

namespace lazuli::cuda {

/// A chunk of rows of logits, dense, in what is computed in: the rows' losses and, where `dlogits` is one,
/// their gradients. These are in the operands' dtype, and may be written over logits of it.
struct LinearCrossEntropyArgs {
  RowShape shape;
  RowsIn logits;
  RowsOut dlogits;
  Targets targets;
  long long firstRow;  // of the chunk: targets, losses and g are of all rows
  double smoothing;
  float* loss;
  float* lse;
  const float* g;
};

/// Sums, rounded.
struct RoundArgs {
  const float* from;
  void* to;
  long long n;
};

}  // namespace lazuli::cuda
