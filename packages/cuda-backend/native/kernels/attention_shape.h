#pragma once

#include <string>

#include "kernels/attention.h"

namespace lazuli {

/// A [batch, heads, rows, cols] operand: its first element and its strides in bytes but for the row's, in
/// elements.
struct AttentionOperand {
  size_t itemBytes = 0;
  int64_t offset = 0, batchStride = 0, headStride = 0, rowStride = 0;

  explicit AttentionOperand(const Layout& layout)
      : itemBytes(sizeBytes(layout.dtype)),
        offset(layout.offset),
        batchStride(layout.strides[0]),
        headStride(layout.strides[1]),
        rowStride(layout.strides[2]) {}
  const std::byte* at(const std::byte* base, int64_t batch, int64_t head, int64_t row = 0) const {
    return base + (offset + batch * batchStride + head * headStride + row * rowStride) *
                      static_cast<int64_t>(itemBytes);
  }
};

/// The attributes of attention and attention_grad stand in one order.
AttentionShape attentionShape(const KernelRequest& request);

/// Multiply-adds count two; `products` matrix products of queries x keys x depth.
double attentionFlops(const AttentionShape& shape, double products);

std::string attentionLabel(const char* op, const AttentionShape& shape);

/// A row of the last dim is read as it lies where its elements are neighbours.
bool hasUnitRows(const Layout& layout);

inline size_t alignedBytes(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace lazuli
