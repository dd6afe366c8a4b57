#pragma once

#include <memory>
#include <mutex>

#include "cuda/stream.h"
#include "kernels/matmul_layout.h"

namespace lazuli::cuda {

/// What a product by cuBLASLt does besides: out = activation(a · b + bias) + addend.
struct LtEpilogue {
  bool bias = false;                         // dense, along out's last dim
  Activation activation = Activation::none;  // none, relu or gelu_tanh
  bool addend = false;                       // dense like out, which it may be; only without an activation
};

/// A batch of products by cuBLASLt, of float types. Operands have BLAS layouts (MatmulOperand::isBlas).
class LtMatmul {
 public:
  LtMatmul(const MatmulShape& shape, DType in, DType out, LtEpilogue epilogue);
  ~LtMatmul();

  size_t workspaceBytes() const { return workspaceBytes_; }
  /// Bases of the operands; `workspace` of workspaceBytes().
  void run(const std::byte* a, const std::byte* b, const std::byte* bias, const std::byte* addend,
           std::byte* out, std::byte* workspace, const Stream& stream) const;

 private:
  struct Plan;
  const Plan& plan() const;

  MatmulShape shape_;
  DType in_, out_;
  LtEpilogue epilogue_;
  size_t workspaceBytes_;
  std::vector<int64_t> aOffsets_, bOffsets_;  // of the calls, one for each index of the outer batch dims
  int64_t count_ = 1;                         // of the innermost batch dim: one call does them
  mutable std::once_flag once_;
  mutable std::unique_ptr<Plan> plan_;  // made by the first run: the heuristics ask the GPU
};

}  // namespace lazuli::cuda
