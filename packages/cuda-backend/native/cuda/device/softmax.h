#pragma once

#include "row_shape.h"

namespace lazuli::cuda {

struct SoftmaxArgs {
  RowShape shape;
  RowsIn x;
  RowsOut y;
  int log;  // log_softmax
};

struct SoftmaxGradArgs {
  RowShape shape;
  RowsIn y, g;
  RowsOut dx;
  int log;
};

}  // namespace lazuli::cuda
