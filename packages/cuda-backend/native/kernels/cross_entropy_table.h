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
  /// dx[i] = scale * (exp(x[i] - lse) - uniform), at `target` scale * (exp(x[i] - lse) - uniform - peak); dx
  /// may be x.
  void (*gradient[4])(const void* x, void* dx, int64_t width, int64_t target, double lse, double scale,
                      double uniform, double peak);
};
LAZULI_DECLARE_ISA(CrossEntropyTable, crossEntropyTable)

}  // namespace lazuli
