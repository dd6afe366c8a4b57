#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Conversions of n elements between a float DType (by its code) and what kernels compute in. Rounds to
/// nearest even.
struct ConvertTable {
  void (*toFloat[4])(const void* from, float* to, int64_t n);
  void (*toDouble[4])(const void* from, double* to, int64_t n);
  void (*fromFloat[4])(const float* from, void* to, int64_t n);
  void (*fromDouble[4])(const double* from, void* to, int64_t n);
};
LAZULI_DECLARE_ISA(ConvertTable, convertTable)

}  // namespace lazuli
