#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Workers over rows of unit stride; strides are in elements, results are dense. Indexed by the code of a
/// float DType. A result may be written over an operand of the same rows.
struct SoftmaxTable {
  using Forward = void(const void* x, int64_t xStride, void* y, int64_t rows, int64_t width);
  using Backward = void(const void* y, int64_t yStride, const void* g, int64_t gStride, void* dx,
                        int64_t rows, int64_t width);
  Forward* softmax[4];
  Forward* logSoftmax[4];
  Backward* softmaxGrad[4];
  Backward* logSoftmaxGrad[4];
};
LAZULI_DECLARE_ISA(SoftmaxTable, softmaxTable)

}  // namespace lazuli
