#pragma once

#include "isa.h"
#include "kernel.h"

namespace lazuli {

extern const KernelEntry attentionEntry, attentionGradEntry, attentionBiasGradEntry;

/// Where ropes are done inside of the kernels, an attribute after the op's own says to which of q and k, by
/// bits that are shifted by 1 for k. The tables cos and sin of each, q's first, are operands after the op's
/// own.
inline constexpr size_t kAttentionTurns = 4;
inline constexpr int64_t kTurned = 1, kInterleaved = 4, kTurnedBack = 16;  // the last: its cotangent too

/// Queries and keys are taken in blocks of this many, and rows of packed blocks are padded to a multiple of
/// kAttentionPad.
inline constexpr int64_t kAttentionBlock = 64;
inline constexpr int64_t kAttentionPad = 16;

struct AttentionShape {
  int64_t batch, heads, groups, queries, keys;
  int64_t depth, valueDepth;  // of a head's q and k, and of its v
  bool causal;
  int64_t offset;
  int64_t window;  // keys that a query sees, up to its own position; 0: all
  double scale;
  DType dtype;
};

/// What is added to the scaled scores: floats, or bools, of which a false hides. Query i and key j have the
/// element at i * row + j * col; a stride is 0 where they share one, and `col` is 1 else.
struct AttentionBias {
  const std::byte* data = nullptr;  // null where there is none
  DType dtype = DType::f32;
  int64_t itemBytes = 0;
  int64_t row = 0, col = 0;
};

/// Sums of its cotangent, of the work type, with strides alike; `head` from head to head of a group.
struct AttentionBiasGrad {
  void* data = nullptr;  // null where none is asked for
  int64_t head = 0, row = 0, col = 0;
};

/// Computation is in float64 for float64, in float32 for the rest ("the work type").
///
/// Packed blocks of 64 keys, zeros where the last one is short:
///   keys    [depth][64] (transposed), values [64][valueDepth padded]
/// One block of the queries of one head against its group's packed keys and values.
struct AttentionBlock {
  const void* q;  // first query of the block; `qRow` elements apart
  int64_t qRow;
  int64_t first, count;  // queries
  const void* keys;
  const void* values;
  // Of the block's queries and of all keys, which see each other where these are equal; null: all do.
  const int32_t *querySegments, *keySegments;
  AttentionBias bias;  // from the block's first query and the first key on
  void* out;           // [count][valueDepth], `outRow` elements apart
  int64_t outRow;
  float* lse;
  std::byte* scratch;  // AttentionTable::forwardScratch
};

/// The heads of one (batch, group), against every `keyStep`-th block of keys from `firstKeyBlock` on: writes
/// their rows of dk and dv, and the sums that they give dq.
struct AttentionGradTask {
  const void *q, *k, *v, *out, *dout;  // of the group's first head
  int64_t qRow, kRow, vRow, outRow, doutRow;
  int64_t qHead, outHead, doutHead;            // from head to head
  const float *lse, *dlse;                     // [group's heads][queries]; dlse may be null
  const int32_t *querySegments, *keySegments;  // [queries], [keys]; null where there are none
  AttentionBias bias;                          // from the first query and key of the group's first head on
  int64_t biasHead;                            // from head to head
  AttentionBiasGrad dbias;
  void *dk, *dv;         // [keys][depth], [keys][valueDepth]
  int64_t dkRow, dvRow;  // from key to key
  void* dq;              // work type, [group's heads][queries][depth padded]
  int64_t firstKeyBlock, keyStep;
  std::byte* scratch;  // AttentionTable::gradScratch
};

struct AttentionTable {
  /// Packs the block of `count` keys whose first row is at k and v, `kRow` and `vRow` elements apart.
  void (*packKeys)(const AttentionShape& shape, const void* k, int64_t kRow, const void* v, int64_t vRow,
                   int64_t count, void* keys, void* values);
  size_t (*forwardScratch)(const AttentionShape& shape);
  void (*forward)(const AttentionShape& shape, const AttentionBlock& block);
  size_t (*gradScratch)(const AttentionShape& shape, int64_t keyStep);
  void (*grad)(const AttentionShape& shape, const AttentionGradTask& task);
  /// dq rows [count][depth], `dqRow` elements apart, from `parts` sums that lie `partStride` elements apart.
  void (*gradQueries)(const AttentionShape& shape, const void* sums, int64_t parts, int64_t partStride,
                      int64_t count, void* dq, int64_t dqRow);
};

LAZULI_DECLARE_ISA(AttentionTable, attention)

// Internal linkage: isa/*.cpp call these too (isa.h).
static inline int64_t attentionPadded(int64_t n) {
  return (n + kAttentionPad - 1) / kAttentionPad * kAttentionPad;
}
static inline int64_t attentionBlocks(int64_t n) { return (n + kAttentionBlock - 1) / kAttentionBlock; }
static inline AttentionBias attentionBiasFrom(AttentionBias bias, int64_t query, int64_t key) {
  if (bias.data) bias.data += (query * bias.row + key * bias.col) * bias.itemBytes;
  return bias;
}
static inline size_t attentionWorkBytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

}  // namespace lazuli
