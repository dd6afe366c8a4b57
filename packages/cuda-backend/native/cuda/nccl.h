#pragma once

#include <nccl.h>

#include "cuda/driver.h"

namespace lazuli::cuda {

// It lays lists like this one out anew each time.
// clang-format off
#define LAZULI_NCCL_FUNCTIONS(X) \
  X(ncclGetVersion) X(ncclGetErrorString) X(ncclGetLastError) X(ncclGetUniqueId) X(ncclCommInitRank) \
  X(ncclCommSplit) X(ncclCommAbort) X(ncclCommDestroy) X(ncclCommGetAsyncError) X(ncclGroupStart) \
  X(ncclGroupEnd) X(ncclAllReduce) X(ncclAllGather) X(ncclReduceScatter) X(ncclSend) X(ncclRecv)
// clang-format on

/// libnccl, opened when it is first asked for.
struct Nccl {
#define LAZULI_NCCL_MEMBER(name) decltype(&::name) name = nullptr;
  LAZULI_NCCL_FUNCTIONS(LAZULI_NCCL_MEMBER)
#undef LAZULI_NCCL_MEMBER

  /// Throws CudaError where it is missing.
  static const Nccl& get();
  void check(ncclResult_t result, const char* what) const;
};

#define LAZULI_NCCL(name, ...) \
  ::lazuli::cuda::Nccl::get().check(::lazuli::cuda::Nccl::get().name(__VA_ARGS__), #name)

}  // namespace lazuli::cuda
