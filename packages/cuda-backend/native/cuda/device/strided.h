#pragma once

// A tensor as it lies, for kernels that walk it element by element. Shared by the host and every device
// compiler.

namespace lazuli::cuda {

inline constexpr int kStridedDims = 16;

struct Strided {
  int dims;
  long long shape[kStridedDims], strides[kStridedDims];
};

}  // namespace lazuli::cuda
