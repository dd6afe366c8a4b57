#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Running sums, by x's DType code; `reverse`: from the end. y may be x.
struct CumsumTable {
  /// Along n adjacent elements, on from `*sum` (of the accumulator's type), which then holds the last.
  void (*line[7])(const void* x, void* y, int64_t n, bool reverse, void* sum);
  /// *sum += the n elements
  void (*total[7])(const void* x, int64_t n, void* sum);
  /// Down n rows of `columns` elements that lie `stride` apart.
  void (*columns[7])(const void* x, void* y, int64_t n, int64_t stride, int64_t columns, bool reverse);
};
LAZULI_DECLARE_ISA(CumsumTable, cumsumTable)

}  // namespace lazuli
