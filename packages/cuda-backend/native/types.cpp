#include "types.h"

namespace lazuli {

const char* name(DType dtype) {
  static constexpr const char* names[kDTypes] = {"float32", "float64", "bfloat16", "float16",
                                                 "int32",   "int64",   "uint8",    "bool"};
  return names[static_cast<size_t>(dtype)];
}

int64_t elements(const Dims& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

Dims denseStrides(const Dims& shape) {
  Dims strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

std::string format(const Dims& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

bool Layout::isDense() const {
  if (offset != 0) return false;
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != stride) return false;
    stride *= shape[i];
  }
  return true;
}

}  // namespace lazuli
