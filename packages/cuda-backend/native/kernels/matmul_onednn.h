#pragma once

#include <memory>

#include "kernels/gemm.h"
#include "kernels/matmul_layout.h"

namespace lazuli {

/// What the library is asked for: `shape` with both operands collapsed.
struct DnnlProblem {
  GemmTypes types;
  bool bias = false;  // [n], dense
  Activation activation = Activation::none;
  bool residual = false;
};

/// A product made by oneDNN.
class DnnlMatmul {
 public:
  virtual ~DnnlMatmul() = default;
  virtual size_t scratchBytes() const = 0;
  /// Several threads may be in it at once.
  virtual void run(const void* a, const void* b, void* c, const GemmEpilogue& epilogue,
                   std::byte* scratch) const = 0;

  /// Whether this build has fast products of this dtype.
  static bool has(DType in);
  /// Null where this build has no oneDNN, or it has no fast way for these types or strides.
  static std::unique_ptr<DnnlMatmul> make(const DnnlProblem& problem, const MatmulShape& shape);
};

}  // namespace lazuli
