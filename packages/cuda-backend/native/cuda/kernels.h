#pragma once

#include "kernel.h"

namespace lazuli::cuda {

class Source;
struct Target;

/// CUDA's kernels. Making one needs no GPU; running one needs KernelArgs::stream. `deterministic`: only those
/// that give the same bits in every run.
const KernelMaker& kernels(bool deterministic = true);

// By Op; cuda/registry.cpp. Null where CUDA has no kernel for it.
const KernelEntry* findKernel(Op op);

/// A fused group, printed as CUDA C and compiled by NVRTC.
MadeKernel makeFused(std::vector<FusedSpec> parts);
/// Compiles what of a program has no compiled code yet, several kernels at a time: else each is compiled when
/// it is first run. Throws as Source::module (cuda/nvrtc.h).
void prepare(const Lowered& lowered, const Target& target);
/// What was printed for a fused kernel; null: the kernel is another one.
std::shared_ptr<const Source> fusedSource(const Kernel& kernel);

MadeKernel makeMatmul(const MatmulSpec& spec);
bool matmulAccepts(const MatmulSpec& spec, size_t operand);

}  // namespace lazuli::cuda
