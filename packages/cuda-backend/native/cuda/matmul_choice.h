#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/cublaslt.h"
#include "cuda/stream.h"
#include "parallel.h"

namespace lazuli::cuda {

/// LAZULI_CUDA_MATMUL=timed: of what cuBLASLt's heuristics propose the fastest is taken, by the GPU's clock,
/// when a product first runs. Else their first. Throws CudaError for another value.
bool choosesByTime();

/// The algorithm of a product that `key` tells all about: chosen once a process, by `choose`.
cublasLtMatmulAlgo_t chosenAlgorithm(const std::vector<int64_t>& key,
                                     FunctionRef<cublasLtMatmulAlgo_t()> choose);

/// The one of `candidates` with which `run` takes the least time on the stream. Those that `run` gives false
/// for are left out. Not while the stream is being captured.
cublasLtMatmulAlgo_t fastest(std::span<const cublasLtMatmulHeuristicResult_t> candidates,
                             const Stream& stream, FunctionRef<bool(const cublasLtMatmulAlgo_t&)> run);

}  // namespace lazuli::cuda
