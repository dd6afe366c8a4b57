#pragma once

// The emulator's CUtensorMap: written by cuTensorMapEncodeTiled, read by the TMA loads of ptx.h.

#include <stdint.h>

namespace lazuli::simt {

struct TensorMap {
  char* address;
  uint64_t strides[5];  // bytes; the first dimension's is not used: its elements lie side by side
  uint64_t sizes[5];
  uint16_t box[5];
  uint8_t rank, elementBytes, swizzleBytes;
};

}  // namespace lazuli::simt
