#include "cuda/cublaslt.h"

#include "cuda/library.h"

namespace lazuli::cuda {

const CublasLt& CublasLt::get() {
  static const CublasLt cublas = [] {
    static const Library library({"libcublasLt.so.13", "libcublasLt.so.12"});
    CublasLt loaded;
#define LAZULI_CUBLASLT_LOAD(name) \
  loaded.name = reinterpret_cast<decltype(loaded.name)>(library.symbol(#name));
    LAZULI_CUBLASLT_FUNCTIONS(LAZULI_CUBLASLT_LOAD)
#undef LAZULI_CUBLASLT_LOAD
    loaded.check(loaded.cublasLtCreate(&loaded.handle), "cublasLtCreate");
    return loaded;
  }();
  return cublas;
}

void CublasLt::check(cublasStatus_t status, const char* what) const {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(what) + ": " + cublasLtGetStatusString(status), status);
}

}  // namespace lazuli::cuda
