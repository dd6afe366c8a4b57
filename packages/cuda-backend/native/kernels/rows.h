#pragma once

#include <optional>

#include "kernel.h"

namespace lazuli {

/// A layout as rows of its last dim, which has unit stride; the rows lie `stride` elements apart.
struct Rows {
  int64_t count, width, stride, offset;

  /// Rows that are about one piece of work for a thread.
  int64_t grain() const;
};

/// Nothing where the last dim has gaps or the outer dims are not evenly spaced.
std::optional<Rows> asRows(const Layout& layout);

/// For KernelEntry::accepts of kernels that read every operand as rows.
bool acceptsRows(const Node& node, size_t index, const Layout& layout);

/// Rows of an operand that `acceptsRows` let through.
Rows rowsOf(const KernelRequest& request, size_t operand);

/// "rms_norm float32 [2048, 288]"
std::string label(const char* op, const Layout& layout);

template <class Run>
class FunctionKernel final : public Kernel {
 public:
  explicit FunctionKernel(Run run) : run_(std::move(run)) {}
  void run(const KernelArgs& args) const override { run_(args); }

 private:
  Run run_;
};

/// A kernel of what `run(const KernelArgs&)` does.
template <class Run>
std::unique_ptr<Kernel> kernelOf(Run run) {
  return std::make_unique<FunctionKernel<Run>>(std::move(run));
}

inline const std::byte* at(const std::byte* base, DType dtype, int64_t element) {
  return base + element * static_cast<int64_t>(sizeBytes(dtype));
}
inline std::byte* at(std::byte* base, DType dtype, int64_t element) {
  return base + element * static_cast<int64_t>(sizeBytes(dtype));
}

}  // namespace lazuli
