#pragma once

#include "dtype.h"
#include "strided.h"

namespace lazuli::cuda {

/// Where the i-th element, in row-major order, lies.
LAZULI_DEVICE int64_t offsetOf(const Strided& at, int64_t i) {
  int64_t offset = 0;
  for (int dim = at.dims - 1; dim > 0; --dim) {
    const Divided divided = divide(i, at.shape[dim]);
    offset += divided.rest * at.strides[dim];
    i = divided.quotient;
  }
  return at.dims > 0 ? offset + i * at.strides[0] : offset;
}

LAZULI_DEVICE int64_t indexAt(const void* indices, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(indices)[i] : static_cast<const int32_t*>(indices)[i];
}

}  // namespace lazuli::cuda
