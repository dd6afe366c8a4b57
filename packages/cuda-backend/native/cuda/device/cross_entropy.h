#pragma once

#include "fault.h"
#include "row_shape.h"

namespace lazuli::cuda {

struct Targets {
  const void* data;
  int wide;  // int64, else int32
  long long ignored;
  Fault* fault;
  unsigned step;
};

struct CrossEntropyArgs {
  RowShape shape;
  RowsIn x;
  Targets targets;
  double smoothing;
  float* loss;
  float* lse;
};

struct CrossEntropyGradArgs {
  RowShape shape;
  RowsIn x;
  RowsOut dx;
  Targets targets;
  const float* lse;
  const float* g;
  double smoothing;
};

}  // namespace lazuli::cuda
