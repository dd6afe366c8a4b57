#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry rmsNormEntry, rmsNormGradEntry, layerNormEntry, layerNormGradEntry;

}  // namespace lazuli
