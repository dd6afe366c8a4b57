#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Turns `rows` rows of `width` (even) elements, row i by the angles of row i of cos and sin [rows, width /
/// 2]. Strides are in elements; y may be written over x where the rows are the same.
struct RopeTable {
  struct Work {
    const void* x;
    int64_t xStride;
    const void* cos;
    const void* sin;
    void* y;
    int64_t yStride;
    int64_t rows, width;
    bool inverse;
  };
  using Worker = void(const Work& work);
  /// By the code of x's float DType, and whether the tables are float32 (else of x's dtype).
  Worker* halves[4][2];
  Worker* interleaved[4][2];
};
LAZULI_DECLARE_ISA(RopeTable, ropeTable)

}  // namespace lazuli
