#pragma once

#include "types.h"

namespace lazuli {

/// Offsets of successive elements of a strided shape, in row-major order, without a division for each.
class Walk {
 public:
  /// From element `start` of `shape` on.
  Walk(const Dims& shape, const Dims& strides, int64_t start)
      : shape_(shape), strides_(strides), at_(shape.size()) {
    for (size_t dim = shape.size(); dim-- > 0;) {
      at_[dim] = start % shape[dim];
      start /= shape[dim];
      offset_ += at_[dim] * strides[dim];
    }
  }
  int64_t offset() const { return offset_; }
  void next() {
    for (size_t dim = shape_.size(); dim-- > 0;) {
      offset_ += strides_[dim];
      if (++at_[dim] < shape_[dim]) return;
      offset_ -= strides_[dim] * shape_[dim];
      at_[dim] = 0;
    }
  }

 private:
  const Dims& shape_;
  const Dims& strides_;
  Dims at_;
  int64_t offset_ = 0;
};

/// `dims` less one of them.
inline Dims without(Dims dims, int64_t dim) {
  dims.erase(dims.begin() + dim);
  return dims;
}

}  // namespace lazuli
