#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry sortEntry, topkEntry;

}  // namespace lazuli
