#pragma once

namespace lazuli::cuda {

/// c = a · b for a batch, c dense [batch..., m, n]; strides in elements.
struct MatmulSimpleArgs {
  static constexpr int kMostBatchDims = 6;
  const void* a;
  const void* b;
  void* c;
  long long m, n, k;
  long long aLine, aDepth, bLine, bDepth;
  long long batch[kMostBatchDims], aBatch[kMostBatchDims], bBatch[kMostBatchDims];  // outermost first
  int batchDims;
};

inline constexpr int kMatmulSimpleTile = 16;

}  // namespace lazuli::cuda
