#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry softmaxEntry, logSoftmaxEntry, softmaxGradEntry, logSoftmaxGradEntry;

}  // namespace lazuli
