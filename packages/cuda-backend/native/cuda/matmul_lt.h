#pragma once

#include <memory>
#include <mutex>

#include "cuda/cublaslt.h"
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

  size_t workspaceBytes() const;
  /// Bases of the operands; `workspace` of workspaceBytes(), aligned as all that is planned.
  void run(const std::byte* a, const std::byte* b, const std::byte* bias, const std::byte* addend,
           std::byte* out, std::byte* workspace, const Stream& stream) const;

 private:
  struct Plan;
  /// What a product is given.
  struct Call {
    const std::byte *a, *b, *bias, *addend;
    std::byte* workspace;
    const Stream& stream;
  };
  const Plan& plan(const Call& call) const;
  cublasLtMatmulAlgo_t choose(const Plan& plan, const Call& call) const;
  std::vector<int64_t> key(const Stream& stream) const;
  cublasStatus_t multiply(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulDesc_t desc,
                          const Call& call, const std::byte* a, const std::byte* b, const std::byte* addend,
                          std::byte* out) const;
  int64_t itemBytes() const;

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
