#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry cumsumEntry;

}  // namespace lazuli
