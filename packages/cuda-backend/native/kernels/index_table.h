#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// sum[i] += x[i], by x's DType code; sum is float32 for the half types, else of x's type.
struct IndexTable {
  void (*add[7])(void* sum, const void* x, int64_t n);
};
LAZULI_DECLARE_ISA(IndexTable, indexTable)

}  // namespace lazuli
