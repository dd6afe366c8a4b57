#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry adamwUpdateEntry;

}  // namespace lazuli
