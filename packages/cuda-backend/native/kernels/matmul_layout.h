#pragma once

#include "kernels/matmul.h"

namespace lazuli {

/// One operand of a product: lines (a's rows, b's columns) by depth (the contracted index), by batch.
struct MatmulOperand {
  int64_t lineStride = 0, depthStride = 0;
  Dims batchStrides;
  int64_t offset = 0;
  bool collapses = false;  // the strides above say where the elements lie
  /// The operand's dims in the order batch, lines, depth: to copy it where it does not collapse.
  std::vector<int64_t> order;

  /// A unit stride and a leading one that covers it, as BLAS has it.
  bool isBlas(int64_t lines, int64_t depth) const;
};

/// dot_general as a batch of m x n x k products; operand strides follow `batch`, merged where both operands
/// allow.
struct MatmulShape {
  Dims batch;
  int64_t m = 1, n = 1, k = 1;
  MatmulOperand a, b;
  /// Of a single column c is its own transpose: a here is the spec's b, and the other way round, so that m
  /// is 1.
  bool swapped = false;

  int64_t batches() const { return elements(batch); }
};

MatmulShape matmulShape(const MatmulSpec& spec);

/// " + bias silu + residual": what is done to the product.
std::string epilogueLabel(const MatmulSpec& spec);

/// "matmul float32 2048x288 * 288x768 + residual"
std::string label(const MatmulSpec& spec, const MatmulShape& shape);

/// The operand as it is once copied to [batch, lines, depth].
void setDense(MatmulOperand& operand, const Dims& batch, int64_t lines, int64_t depth);

/// Element offsets by batch index, row-major over `batch`.
std::vector<int64_t> batchOffsets(const Dims& batch, const MatmulOperand& operand);

}  // namespace lazuli
