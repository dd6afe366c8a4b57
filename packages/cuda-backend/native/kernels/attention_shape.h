#pragma once

#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/rope_table.h"

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
    return base + bytesTo(batch, head, row);
  }
  std::byte* at(std::byte* base, int64_t batch, int64_t head, int64_t row = 0) const {
    return base + bytesTo(batch, head, row);
  }

 private:
  int64_t bytesTo(int64_t batch, int64_t head, int64_t row) const {
    return (offset + batch * batchStride + head * headStride + row * rowStride) *
           static_cast<int64_t>(itemBytes);
  }
};

/// The attributes of attention and attention_grad stand in one order.
AttentionShape attentionShape(const KernelRequest& request);

/// Positions of the operands that need not be there; -1 where one is not.
struct AttentionExtras {
  int dlse = -1;      // float32 [B, H, T]
  int bias = -1;      // [B or 1, H or 1, T or 1, S or 1]
  int segments = -1;  // int32 [B, T], and after it those of the keys, [B, S]
  int shift = -1;     // an int32 scalar, added to the offset when the kernel runs
};
AttentionExtras attentionExtras(const std::vector<Layout>& operands, size_t fixed);

/// The bias as the kernels read it.
class AttentionBiasOperand {
 public:
  /// The operand at `index`; none where that is -1.
  AttentionBiasOperand(const std::vector<Layout>& operands, int index);
  AttentionBias at(const std::byte* const* reads, int64_t batch, int64_t head) const;
  /// In elements.
  int64_t headStride() const { return strides_[1]; }

 private:
  int index_;
  DType dtype_ = DType::f32;
  int64_t offset_ = 0;
  int64_t strides_[4] = {};  // 0 where the dim is 1
};

/// A rope of q (`which` 0) or k (1) that is done inside of a kernel, with the roundings of the op.
class AttentionTurn {
 public:
  AttentionTurn(const KernelRequest& request, size_t which);
  bool isOn() const { return worker_ != nullptr; }
  bool turnsBack() const { return turnsBack_; }
  /// y [count][depth] of rows x from position `first` on, rows so many elements apart; y may be x.
  void run(const std::byte* const* reads, const std::byte* x, int64_t xStride, int64_t first, int64_t count,
           bool inverse, std::byte* y, int64_t yStride) const;

 private:
  bool turnsBack_ = false;
  RopeTable::Worker* worker_ = nullptr;
  size_t cos_ = 0, tableItem_ = 0;  // sin is the next operand
  int64_t width_ = 0;
};

/// A batch row of the segments of queries (`of` 0) or keys (1); null where there are none.
const int32_t* attentionSegments(const AttentionExtras& extras, int of, const std::byte* const* reads,
                                 int64_t batch, int64_t length);

/// The shape with the offset of one run.
AttentionShape shifted(const AttentionShape& shape, int shift, const std::byte* const* reads);

/// Multiply-adds count two; as if the shift were 0; `products` matrix products of queries x keys x depth.
double attentionFlops(const AttentionShape& shape, double products);

std::string attentionLabel(const KernelRequest& request, const AttentionShape& shape,
                           const AttentionExtras& extras);

/// A row of the last dim is read as it lies where its elements are neighbours.
bool hasUnitRows(const Layout& layout);
/// So is that of a bias, and one that all keys share.
bool isBiasRead(const Layout& layout);

inline size_t alignedBytes(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace lazuli
