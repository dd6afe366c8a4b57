#include "fill.h"
#include "simt.h"

namespace lazuli::cuda {

// Eight bytes a thread: for memory that has to hold one 32-bit pattern.
LAZULI_KERNEL(lazuli_fill, FillArgs, 256) {
  const uint64_t pair = static_cast<uint64_t>(args.pattern) << 32 | args.pattern;
  for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < args.pairs; i += gridDim.x * 256ull)
    args.to[i] = pair;
}

}  // namespace lazuli::cuda
