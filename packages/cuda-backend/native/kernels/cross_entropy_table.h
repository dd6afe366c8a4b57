#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// Workers on one row of logits, indexed by the code of a float DType.
struct CrossEntropyTable {
  struct Sums {
    double lse;    // log(sum(exp(x)))
    double total;  // sum(x), where asked for
  };
  Sums (*reduce[4])(const void* x, int64_t width, bool total);
  using Gradient = void (*)(const void* x, void* dx, int64_t width, int64_t target, double lse, double scale,
                            double uniform, double peak);
  /// dx[i] = scale * (exp(x[i] - lse) - uniform), at `target` (-1: not here) scale * (exp(x[i] - lse) -
  /// uniform - peak); dx may be x.
  Gradient gradient[4];
  /// The same of x in float32 where dx is of a half type.
  Gradient gradientOfWide[4];
};
LAZULI_DECLARE_ISA(CrossEntropyTable, crossEntropyTable)

}  // namespace lazuli
