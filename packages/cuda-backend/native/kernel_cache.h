#pragma once

#include <cstdint>
#include <map>

#include "kernel.h"

namespace lazuli {

/// Makes the kernels of one program, and each but once: what is asked for again by structure (shapes,
/// layouts, attributes, expressions) is the same kernel, of this program or of another that is still there.
class KernelCache {
 public:
  explicit KernelCache(const KernelMaker& maker) : maker_(maker) {}

  MadeKernel fused(std::vector<FusedSpec> parts);
  MadeKernel matmul(const MatmulSpec& spec);
  MadeKernel normMatmul(const NormMatmulSpec& spec);
  /// Of several requests where the entry joined them.
  MadeKernel library(const KernelEntry& entry, std::span<const KernelRequest> requests);

 private:
  using Key = std::vector<int64_t>;
  template <class Make>
  MadeKernel find(Key key, Make make);

  const KernelMaker& maker_;
  std::map<Key, MadeKernel> own_;  // of this program
};

}  // namespace lazuli
