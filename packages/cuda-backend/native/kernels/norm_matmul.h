#pragma once

#include "kernels/matmul.h"

namespace lazuli {

/// A norm and those who take its rows block by block, as they are made: a cast, and products that contract
/// them. Its bits are those of one kernel after the other.
struct NormMatmulSpec {
  KernelRequest norm;  // rms_norm or layer_norm
  /// In which the products read the rows: the norm's dtype, or bfloat16 or float16 where that is float32.
  DType dtype;
  /// Whether others read the norm's result, or its cast, which then is written whole.
  bool keepsNorm = false, keepsCast = false;
  /// Their a is the norm's result, [..., width], and they contract its last dim; none has a batch. Without
  /// any the kernel makes the rows alone.
  std::vector<MatmulSpec> products;

  bool casts() const { return dtype != norm.results[0].dtype; }
};

struct NormMatmulSizes {
  DType norm, dtype;  // of the norm; of the rows that products read
  int64_t rows, width;
  std::vector<int64_t> columns;  // by product; none: the rows are cast alone
};

/// Whether the kernel below is no slower than those it stands for.
bool normMatmulPays(const NormMatmulSizes& sizes);

/// The kernel reads the norm's operands, then by product b and, where there are such, the bias and the
/// residual. It writes the norm's result and the cast's, where they are kept, then the products'.
MadeKernel makeNormMatmul(const NormMatmulSpec& spec);

}  // namespace lazuli
