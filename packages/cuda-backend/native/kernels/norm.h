#pragma once

#include "kernels/norm_table.h"
#include "kernels/rows.h"

namespace lazuli {

extern const KernelEntry rmsNormEntry, rmsNormGradEntry, layerNormEntry, layerNormGradEntry;

/// rms_norm or layer_norm of rows: what their own kernels run, and products that normalise their operand
/// (kernels/norm_matmul.h).
class NormRows {
 public:
  explicit NormRows(const KernelRequest& request);

  const Rows& x() const { return x_; }
  DType dtype() const { return dtype_; }
  const char* op() const { return op_; }
  /// Operands read: x, the weight, layer_norm's bias.
  size_t operands() const { return biased_ ? 3 : 2; }
  double flops() const { return (biased_ ? 8.0 : 4.0) * static_cast<double>(x_.count * x_.width); }
  size_t scratchBytes() const;

  /// The operands of one run, the vectors in what x computes in.
  struct Operands {
    const std::byte* x;
    const void *w, *b;
  };
  /// They may lie in `scratch` from then on.
  Operands prepare(const std::byte* const* reads, std::byte* scratch) const;
  /// Rows begin .. end, dense from `to` on. On the calling thread.
  void run(const Operands& operands, int64_t begin, int64_t end, std::byte* to) const;

 private:
  Rows x_;
  DType dtype_, weight_;
  const char* op_;
  bool biased_;
  void (*worker_)(const NormTable::Forward&);
  double eps_;
};

}  // namespace lazuli
