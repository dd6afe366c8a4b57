#pragma once

#include "strided.h"

namespace lazuli::cuda {

/// Rows [batch..., length] of `width`, which lie in x as the strides say, in elements; y is dense.
struct RopeArgs {
  const void* x;
  const void* cos;
  const void* sin;
  void* y;
  long long rows, length, width;
  long long lengthStride;
  Strided batch;
  int single;  // cos and sin are float32, whatever x is
  int inverse;
  int aligned;  // units of each row, and of the tables, have their alignment
};

}  // namespace lazuli::cuda
