#pragma once

#include "cuda/fused_plan.h"

namespace lazuli::cuda {

/// Buffers that one kernel may be given (launch.h: kParameterBytes).
inline constexpr size_t kMostBuffers = 4000;

/// A fused group as CUDA C: every size, stride and offset is a constant of it. Parts that may share a kernel
/// do: no part reads what another one writes.
struct PrintedFused {
  /// One of the buffers that a kernel is given: of the call's reads, writes, or its scratch memory.
  struct Buffer {
    enum class Kind : uint8_t { read, write, scratch };
    Kind kind;
    uint32_t number = 0;
    int64_t start = 0;  // in bytes: kernels that differ in nothing else are one
    bool operator==(const Buffer&) const = default;
  };
  struct Launch {
    std::string kernel;  // by name
    uint32_t x = 1, y = 1, threads = 256;
    std::vector<Buffer> buffers;
  };
  /// What follows `#include "fused_reduce.h"`. Kernels have a hash of it in their names.
  std::string source;
  std::vector<Launch> launches;
  size_t scratchBytes = 0;
};

PrintedFused printFused(const std::vector<FusedSpec>& parts);

}  // namespace lazuli::cuda
