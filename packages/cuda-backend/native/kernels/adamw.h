#pragma once

#include "kernel.h"

namespace lazuli {

extern const KernelEntry adamwUpdateEntry;

/// What any device's kernel that carries out these adamw_update nodes together is to the planner.
MadeKernel adamwOf(std::span<const KernelRequest> requests, std::unique_ptr<Kernel> kernel);
/// Whether one kernel may update what `next` asks for along with `group`: they agree on everything but the
/// parameters, which have `most` elements in all.
bool adamwJoins(std::span<const KernelRequest> group, const KernelRequest& next, int64_t most);

}  // namespace lazuli
