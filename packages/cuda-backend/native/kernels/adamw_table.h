#pragma once

#include <stdint.h>

#include "isa.h"

namespace lazuli {

/// One step of AdamW, or of Adam with L2 decay, on n elements. Results may be written over their operands.
struct AdamwTable {
  struct Work {
    const void* p;
    const void* g;
    const float* m;
    const float* v;
    void* pOut;
    float* mOut;
    float* vOut;
    int64_t n;
    double gradScale;
    double shrink;  // p *= shrink
    double decay;   // g += decay * p
    double beta1, beta2;
    double rate;       // lr / (1 - beta1^step)
    double rootScale;  // 1 / sqrt(1 - beta2^step)
    double eps;
  };
  /// By the codes of p's and g's float DTypes; null where they do not go together.
  void (*update[4][4])(const Work& work);
};
LAZULI_DECLARE_ISA(AdamwTable, adamwTable)

}  // namespace lazuli
