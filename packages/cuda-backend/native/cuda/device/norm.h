#pragma once

#include "row_shape.h"

namespace lazuli::cuda {

struct NormArgs {
  RowShape shape;
  RowsIn x;
  RowsOut y;
  const void* w;
  const void* b;  // layer_norm only
  int single;     // w and b are float32, whatever x is
  int alignedWeights;
  double eps;
};

/// Every owner (a group of threads) takes the rows owner, owner + owners, ... and leaves its sums of dw, and
/// of db, in a row of `partials`: [owners, width], then the same of db.
struct NormGradArgs {
  RowShape shape;
  RowsIn x, g;
  RowsIn residual;  // added to what was dx without it; null: none
  RowsOut dx;
  RowsOut narrow;  // the sum with the residual in a half type too; of float32 only, null: none
  const void* w;
  void* partials;
  long long owners;
  int single;
  int alignedWeights;
  int toBFloat16;  // `narrow`
  double eps;
};

/// The sums of `partials` down its columns, rounded.
struct NormSumArgs {
  const void* partials;  // [2, owners, width], or [1, ...]
  void* to[2];
  long long owners, width;
  int dtype;  // of `to`
};

}  // namespace lazuli::cuda
