#pragma once

#include "kernels/fused_plan.h"

namespace lazuli {

/// How a plan's reductions are split over threads: by shape alone.
struct ReduceSplit {
  bool columns = false;
  int64_t panel = 0;  // columns: accumulators of one task
  int64_t panels = 1;
  int64_t length = 0;  // reduced elements (rows) of one piece
  int64_t pieces = 1;
  size_t scratchBytes = 0;  // states of the pieces, combined in order afterwards
};

ReduceSplit splitReduce(const FusedPlan& plan);
void runReduce(const FusedPlan& plan, const ReduceSplit& split, const KernelArgs& args);

}  // namespace lazuli
