#include "cuda/nccl.h"

#include "cuda/library.h"

namespace lazuli::cuda {

const Nccl& Nccl::get() {
  static const Nccl nccl = [] {
    static const Library library({"libnccl.so.2"});
    Nccl loaded;
#define LAZULI_NCCL_LOAD(name) loaded.name = reinterpret_cast<decltype(loaded.name)>(library.symbol(#name));
    LAZULI_NCCL_FUNCTIONS(LAZULI_NCCL_LOAD)
#undef LAZULI_NCCL_LOAD
    return loaded;
  }();
  return nccl;
}

void Nccl::check(ncclResult_t result, const char* what) const {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* last = ncclGetLastError(nullptr);
  std::string text = std::string(what) + ": " + ncclGetErrorString(result);
  if (last && *last) text += std::string(" (") + last + ")";
  throw CudaError(text, result);
}

}  // namespace lazuli::cuda
