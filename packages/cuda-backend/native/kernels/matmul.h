#pragma once

#include <optional>

#include "kernel.h"

namespace lazuli {

enum class Activation { none, relu, gelu_tanh, gelu_erf, silu };

/// out = activation(a · b + bias) + residual, where a · b is dot_general (docs/ir.md): out is dense
/// [batch..., a's free dims..., b's free dims...]. a and b have one dtype; out has the same, or float32 where
/// a and b are bfloat16 or float16. Float16 and bfloat16 accumulate in float32; integers wrap. Only float
/// outputs may have a bias, an activation or a residual.
struct MatmulSpec {
  Layout a, b;
  std::vector<int64_t> lhsContract, rhsContract, lhsBatch, rhsBatch;
  TensorType out;
  /// A vector along out's last dim, of out's dtype. b must then have a free dim.
  std::optional<Layout> bias;
  Activation activation = Activation::none;
  /// Dense, out's shape and dtype. The output may be written over it (MadeKernel::inPlace says so).
  bool residual = false;
  /// Of the product that this one is some rows of: it is made by the same method then, so that its rows have
  /// the same bits. 0: it is whole.
  int64_t wholeRows = 0;
};

/// The kernel reads a, b, then the bias and the residual where there are such, and writes out.
/// Operands that `matmulAccepts` refuses must have been copied dense.
MadeKernel makeMatmul(const MatmulSpec& spec);

/// Whether the kernel reads this operand (0: a, 1: b, 2: bias) as it lies: its dims collapse to [batch, M, K]
/// (b: [batch, N, K]) where M or K has unit stride and the others regular, non-negative ones. Anything else
/// is to be copied dense first.
bool matmulAccepts(const MatmulSpec& spec, size_t operand);

}  // namespace lazuli
