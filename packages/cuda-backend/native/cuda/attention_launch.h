#pragma once

#include <initializer_list>
#include <string>

#include "cuda/device/attention.h"
#include "cuda/launch.h"
#include "kernels/attention_shape.h"

namespace lazuli::cuda {

/// Which kernels take a call: those for sm_90a (wgmma), those for tensor cores since sm_80 (mma.sync), or the
/// simple ones; one that does not take a call leaves it to the next. `automatic`: those for sm_90a on a GPU
/// of compute capability 9.0 whose results were found to agree with the next ones' (attention_sm90.h).
enum class AttentionPath { automatic, sm90, sm80, simple };
/// As LAZULI_CUDA_ATTENTION says: auto (also where it is not set), sm90, sm80 or simple. Throws CudaError for
/// anything else.
AttentionPath chosenAttentionPath();

/// The entries' kernels, by a path. Where the gradient need not be `deterministic`, tensor cores compute it
/// in one pass that adds up dq in the GPU's memory, in an order that changes from run to run.
MadeKernel makeAttention(const KernelRequest& request, AttentionPath path);
MadeKernel makeAttentionGrad(const KernelRequest& request, AttentionPath path, bool deterministic = true);

/// A call of attention or attention_grad as the kernels are given it, before any address is known.
struct AttentionCall {
  AttentionShape shape;
  AttentionExtras extras;
  AttentionArgs args{};  // but for pointers
  bool wide;             // computed in float64

  AttentionCall(const KernelRequest& request, size_t fixed);

  /// The kernels' names end in it: "_bf16".
  std::string suffix() const;
  uint32_t queryTiles(int64_t rows) const { return tiles(shape.queries, rows, shape.heads); }
  uint32_t keyTiles(int64_t rows) const { return tiles(shape.keys, rows, shape.groups); }
  /// Bytes of a value that is computed in for every row of queries, at least one line.
  size_t deltaBytes() const;
  bool hasQueries() const { return shape.batch * shape.heads * shape.queries > 0; }
  bool hasKeys() const { return shape.batch * shape.groups * shape.keys > 0; }

  /// The head size where the tensor cores' kernels take the call with these operands too and give these
  /// results; else 0.
  int tensorCoreDepth(std::initializer_list<AttentionTensor> others,
                      std::initializer_list<AttentionResult> results) const;
  /// Of scratch: the ranges of segments of the tensor cores' kernels.
  size_t rangeBytes() const;
  /// Has them computed at `scratch`, where there are segments.
  void findRanges(const Stream& stream, AttentionArgs& args, std::byte* scratch) const;

  /// The args of one run, with the operands that both ops have.
  AttentionArgs at(const KernelArgs& run) const;

 private:
  uint32_t tiles(int64_t rows, int64_t perTile, int64_t heads) const;
  Function ranges_{"attention_forward", "lazuli_attention_ranges"};
};

/// An operand or a result of [batch, heads, rows, width].
AttentionTensor attentionTensor(const KernelRequest& request, size_t operand);
AttentionTensor atAddress(const AttentionTensor& tensor, const std::byte* base, DType dtype);
AttentionResult attentionResult(const KernelRequest& request, size_t result);
AttentionResult atAddress(const AttentionResult& result, std::byte* base, DType dtype);
/// Blocks across the columns of a result.
uint32_t simpleColumnBlocks(int64_t width);

}  // namespace lazuli::cuda
