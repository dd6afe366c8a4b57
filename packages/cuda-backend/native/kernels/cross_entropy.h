#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry crossEntropyEntry, crossEntropyGradEntry;

}  // namespace lazuli
