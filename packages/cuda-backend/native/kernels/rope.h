#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry ropeEntry;

}  // namespace lazuli
