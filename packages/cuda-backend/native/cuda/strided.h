#pragma once

#include "cuda/device/strided.h"
#include "types.h"

namespace lazuli::cuda {

/// The dims, those taken together that lie one in the other.
Strided stridedOf(const Dims& shape, const Dims& strides);

}  // namespace lazuli::cuda
