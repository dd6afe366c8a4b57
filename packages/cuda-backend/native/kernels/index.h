#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry indexSelectEntry, indexAddEntry, gatherEntry, scatterAddEntry;

}  // namespace lazuli
