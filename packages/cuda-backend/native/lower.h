#pragma once

#include "kernel.h"

namespace lazuli {

/// As lower() of kernel.h, fusing or making a kernel per node.
Lowered lower(const Program& program, bool fuse, const KernelMaker& maker = cpuKernels());

/// One line a step: label, what it reads and writes, the fused expression.
std::string describe(const Lowered& lowered);

}  // namespace lazuli
