#include "cuda/strided.h"

namespace lazuli::cuda {

Strided stridedOf(const Dims& shape, const Dims& strides) {
  Strided at{};
  for (size_t dim = 0; dim < shape.size(); ++dim) {
    if (shape[dim] == 1) continue;
    const int last = at.dims - 1;
    if (last >= 0 && at.strides[last] == shape[dim] * strides[dim]) {
      at.shape[last] *= shape[dim];
      at.strides[last] = strides[dim];
      continue;
    }
    at.shape[at.dims] = shape[dim];
    at.strides[at.dims++] = strides[dim];
  }
  return at;
}

}  // namespace lazuli::cuda
