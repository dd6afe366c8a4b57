#pragma once

#include "strided.h"

namespace lazuli::cuda {

/// How rows [batch..., length] lie; strides in elements.
struct RopeRows {
  long long lengthStride;
  Strided batch;
};

/// Rows [batch..., length] of `width`.
struct RopeArgs {
  const void* x;
  const void* cos;
  const void* sin;
  void* y;
  long long rows, length, width;
  RopeRows xRows, yRows;
  int single;  // cos and sin are float32, whatever x is
  int inverse;
  int aligned;  // units of each row, and of the tables, have their alignment
};

}  // namespace lazuli::cuda
