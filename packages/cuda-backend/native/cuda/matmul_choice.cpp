#include "cuda/matmul_choice.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "cuda/handles.h"

namespace lazuli::cuda {
namespace {

constexpr int kRounds = 3;  // the best of them counts: the first also loads code

}  // namespace

bool choosesByTime() {
  const char* value = std::getenv("LAZULI_CUDA_MATMUL");
  if (!value || !*value || std::strcmp(value, "heuristic") == 0) return false;
  if (std::strcmp(value, "timed") == 0) return true;
  throw CudaError(std::string("LAZULI_CUDA_MATMUL=") + value + " is neither heuristic nor timed");
}

cublasLtMatmulAlgo_t chosenAlgorithm(const std::vector<int64_t>& key,
                                     FunctionRef<cublasLtMatmulAlgo_t()> choose) {
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, cublasLtMatmulAlgo_t> known;
  // Held meanwhile: what is timed runs alone.
  std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  const cublasLtMatmulAlgo_t made = choose();
  known.emplace(key, made);
  return made;
}

cublasLtMatmulAlgo_t fastest(std::span<const cublasLtMatmulHeuristicResult_t> candidates,
                             const Stream& stream, FunctionRef<bool(const cublasLtMatmulAlgo_t&)> run) {
  const EventHandle start = makeEvent(true), end = makeEvent(true);
  const cublasLtMatmulAlgo_t* best = nullptr;
  float least = 0;
  for (const cublasLtMatmulHeuristicResult_t& candidate : candidates) {
    for (int round = 0; round < kRounds; round++) {
      LAZULI_CUDA(cuEventRecord, start.get(), stream.handle());
      if (!run(candidate.algo)) break;
      LAZULI_CUDA(cuEventRecord, end.get(), stream.handle());
      LAZULI_CUDA(cuEventSynchronize, end.get());
      float milliseconds = 0;
      LAZULI_CUDA(cuEventElapsedTime, &milliseconds, start.get(), end.get());
      if (best && milliseconds >= least) continue;
      best = &candidate.algo;
      least = milliseconds;
    }
  }
  return best ? *best : candidates.front().algo;
}

}  // namespace lazuli::cuda
