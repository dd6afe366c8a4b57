#pragma once

#include "cuda/stream.h"
#include "kernels/indices.h"
#include "kernels/rows.h"

namespace lazuli::cuda {

/// Of what a kernel's indices are, for what a bad one's fault says.
struct IndexedDim {
  const char* op;
  const char* what;  // "index"
  int64_t dim, size;
};

template <class Run>
class IndexingKernel final : public Kernel {
 public:
  IndexingKernel(const IndexedDim& dim, Run run) : dim_(dim), run_(std::move(run)) {}
  void run(const KernelArgs& args) const override { run_(args); }
  std::string faultText(const Fault& fault) const override {
    return indexText(dim_.op, dim_.what, fault.value, fault.position, dim_.dim, dim_.size);
  }

 private:
  IndexedDim dim_;
  Run run_;
};

/// kernelOf (kernels/rows.h) for a kernel that leaves a fault where an index is out of range.
template <class Run>
std::unique_ptr<Kernel> indexingKernelOf(const IndexedDim& dim, Run run) {
  return std::make_unique<IndexingKernel<Run>>(dim, std::move(run));
}

}  // namespace lazuli::cuda
