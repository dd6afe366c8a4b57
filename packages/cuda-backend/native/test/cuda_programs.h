#pragma once

#include "build.h"

namespace lazuli::cuda {
class Nvrtc;
}

namespace lazuli::test {

/// Whether fused kernels are only compiled: LAZULI_TEST_DEVICE=cubin.
bool testsCubins();

/// expectReference of build.h where the fused kernels are CUDA's. What is not fused runs on the CPU.
void expectReferenceOfCuda(const Program& program, const std::vector<Array>& inputs, double tolerance,
                           double scale);

/// The real NVRTC, whatever LAZULI_CUDA_PATH says; null where there is none.
const cuda::Nvrtc* nvrtcOfMachine();

/// That it makes machine code for sm_80 and sm_90a of a text.
void expectCubins(const cuda::Nvrtc& nvrtc, const std::string& text);

/// CUDA's fused kernels, and the CPU's others: what the fused kernels' tests lower with.
const KernelMaker& fusedByCuda();

}  // namespace lazuli::test
