#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry linearCrossEntropyEntry, linearCrossEntropyGradEntry;

}  // namespace lazuli
