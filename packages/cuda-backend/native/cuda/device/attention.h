#pragma once

// What the kernels of attention are given (docs/ir.md, attention and attention_grad). Shared by the host and
// every device compiler.

namespace lazuli::cuda {

/// A [batch, heads, rows, width] operand or result whose rows' elements are neighbours; strides in elements.
struct AttentionTensor {
  const void* data;
  long long batch, head, row;
};
struct AttentionResult {
  void* data;
  long long batch, head, row;
};

/// What is added to the scaled scores; strides in elements, 0 where a dim is shared.
struct AttentionBiasArg {
  enum Kind { none, boolean, f32, f64, bf16, f16 };  // of bools a false hides

  const void* data;
  long long batch, head, row, column;
  int kind;
};

struct AttentionArgs {
  AttentionTensor q, k, v;
  AttentionTensor out, dout;               // of the gradient
  const int *querySegments, *keySegments;  // [batch, queries], [batch, keys]; null where there are none
  int *queryRanges, *keyRanges;            // lowest and highest segment of every kAttentionRange rows
  const int* shift;                        // added to `offset`; null: 0
  float* lse;                              // [batch, heads, queries]; the gradient reads it
  const float* dlse;                       // may be null
  void* delta;                             // [batch, heads, queries] of the gradient, as it is computed in
  float* dqSums;  // [batch, heads, queries, depth], unscaled: what one pass adds up, in no order; else null
  AttentionBiasArg bias;
  AttentionResult result, dq, dk, dv;
  void* dbias;  // dense, [1 or batch, 1 or heads, 1 or queries, 1 or keys]
  bool dbiasBatch, dbiasHeads, dbiasQueries, dbiasKeys;  // whether these dims are whole
  int batch, heads, groups, queries, keys, depth, valueDepth;
  bool causal;
  long long offset, window;
  double scale;
};

/// A CUtensorMap, which only the driver and the GPU read.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};
/// Of the kernels for sm_90a: the operands that are loaded in boxes of kAttentionBox rows.
struct AttentionBulkArgs {
  TensorMap q, k, v, dout;  // dims: column, row, head, batch; dout of the gradient
  AttentionArgs call;
};
inline constexpr int kAttentionBox = 64;
/// Dynamic shared memory of their blocks: 128 rows of queries, two places for 128 keys and values; or 128
/// rows of two operands, two places for 64 of two others, with two numbers a row; and barriers.
constexpr int attentionBulkForwardBytes(int depth) { return (128 + 2 * 2 * 128) * depth * 2 + 128; }
constexpr int attentionBulkBackwardBytes(int depth) {
  return (2 * 128 + 2 * 2 * 64) * depth * 2 + 2 * 2 * 64 * 4 + 64;
}
/// Beside them, where dq is added up too: 128 keys' gradients of the weights of 64 queries.
inline constexpr int kAttentionChangeBytes = 128 * 64 * 2;
/// Columns of a box: as many as one swizzled row of shared memory has, 128 or 64 bytes.
constexpr int attentionBoxColumns(int depth) { return depth % 64 == 0 ? 64 : 32; }

/// Rows of queries or keys in one pair of `queryRanges` or `keyRanges`.
inline constexpr int kAttentionRange = 64;

/// Output columns of a block of the simple kernels, and their rows.
inline constexpr int kSimpleColumns = 128;
constexpr int simpleTile(bool wide) { return wide ? 32 : 64; }

}  // namespace lazuli::cuda
