#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Workers over rows of unit stride, indexed by the code of x's float DType; strides are in elements, y and
/// dx are dense. Weights, biases and their gradients are in what x computes in: float64 for float64, else
/// float32. y and dx may be written over x, g or the residual of the same rows.
struct NormTable {
  struct Forward {
    const void* x;
    int64_t xStride;
    const void* w;
    const void* b;  // layer_norm only
    void* y;
    int64_t rows, width;
    double eps;
  };
  struct Backward {
    const void* x;
    int64_t xStride;
    const void* g;
    int64_t gStride;
    const void* w;
    const void* residual;  // dense, added to what was dx without it; null: none
    void* dx;
    void* narrow;     // the sum with the residual in a half type too, dense; of float32 only, null: none
    bool isBFloat16;  // which
    void* dw;         // added to
    void* db;         // added to; layer_norm only
    int64_t rows, width;
    double eps;
  };
  void (*rms[4])(const Forward& work);
  void (*layer[4])(const Forward& work);
  void (*rmsGrad[4])(const Backward& work);
  void (*layerGrad[4])(const Backward& work);
  /// sum[i] += the i-th elements of `count` vectors that lie `stride` apart; by whether they are float64.
  void (*addVectors[2])(void* sum, const void* vectors, int64_t stride, int64_t count, int64_t n);
};
LAZULI_DECLARE_ISA(NormTable, normTable)

}  // namespace lazuli
