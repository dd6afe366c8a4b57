#pragma once

#include <cublasLt.h>

#include "cuda/driver.h"

namespace lazuli::cuda {

// It lays lists like this one out anew each time.
// clang-format off
#define LAZULI_CUBLASLT_FUNCTIONS(X) \
  X(cublasLtCreate) X(cublasLtGetStatusString) X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescDestroy) \
  X(cublasLtMatmulDescSetAttribute) X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy) \
  X(cublasLtMatrixLayoutSetAttribute) X(cublasLtMatmulPreferenceCreate) \
  X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmul)
// clang-format on

/// libcublasLt, opened when a product first runs.
struct CublasLt {
#define LAZULI_CUBLASLT_MEMBER(name) decltype(&::name) name = nullptr;
  LAZULI_CUBLASLT_FUNCTIONS(LAZULI_CUBLASLT_MEMBER)
#undef LAZULI_CUBLASLT_MEMBER
  cublasLtHandle_t handle = nullptr;  // any thread may use it

  /// Throws CudaError where it is missing.
  static const CublasLt& get();
  void check(cublasStatus_t status, const char* what) const;
};

#define LAZULI_CUBLASLT(name, ...) \
  ::lazuli::cuda::CublasLt::get().check(::lazuli::cuda::CublasLt::get().name(__VA_ARGS__), #name)

}  // namespace lazuli::cuda
