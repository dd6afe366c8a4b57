#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry allReduceEntry, allGatherEntry, reduceScatterEntry, allToAllEntry,
    collectivePermuteEntry, shardSliceEntry, axisIndexEntry, collectiveDoneEntry, barrierEntry;

}  // namespace lazuli
