#pragma once

#include "kernel.h"

namespace lazuli::cuda {

// As the CPU's kernels of the same ops (kernels/), which define what is computed.
extern const KernelEntry softmaxEntry, softmaxGradEntry, logSoftmaxEntry, logSoftmaxGradEntry;
extern const KernelEntry rmsNormEntry, rmsNormGradEntry, layerNormEntry, layerNormGradEntry;
extern const KernelEntry attentionEntry, attentionGradEntry, attentionBiasGradEntry;
/// Of devices that need not be deterministic.
extern const KernelEntry attentionGradInAnyOrderEntry;
extern const KernelEntry ropeEntry, crossEntropyEntry, crossEntropyGradEntry, adamwUpdateEntry;
extern const KernelEntry indexSelectEntry, gatherEntry, indexAddEntry, scatterAddEntry;
extern const KernelEntry cumsumEntry, sortEntry, topkEntry;
extern const KernelEntry linearCrossEntropyEntry, linearCrossEntropyGradEntry;

}  // namespace lazuli::cuda
