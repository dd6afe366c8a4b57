#pragma once

#include "isa.h"
#include "kernels/matmul.h"

namespace lazuli {

/// What is done to a · b before it is stored, in this order. Vectors and matrices have the output's type.
struct GemmEpilogue {
  const void* bias = nullptr;  // [n], unit stride
  Activation activation = Activation::none;
  const void* residual = nullptr;  // laid out as c; may be c itself
};

/// One thread's block of c = epilogue(a · b): a is m x k, b is k x n, c has unit column stride. Strides in
/// elements.
struct GemmBlock {
  const void* a;
  int64_t aRow, aCol;
  const void* b;
  int64_t bRow, bCol;
  void* c;
  int64_t cRow;
  int64_t m, n, k;
  int64_t wholeRows;  // GemmProblem's
  GemmEpilogue epilogue;
  std::byte* scratch;  // GemmTable::scratchBytes, 64-byte aligned
};

/// The element types of one product. Accumulation is in float32 for the 16-bit floats.
struct GemmTypes {
  DType in, out;
};

/// A batch of products.
struct GemmProblem {
  GemmTypes types;
  int64_t aRow, aCol, bRow, bCol;
  int64_t m, n, k;
  int64_t wholeRows;  // m, or that of the product that this one is a part of: few rows have their own method
  /// Element offsets of a and b by batch index; c is dense.
  std::vector<int64_t> aBatch, bBatch;
  bool lateResidual = false;  // an activation comes before it
};

struct GemmTable {
  /// The register tile: blocks that are multiples of it waste nothing.
  int64_t tileRows, tileCols;
  int64_t mostRows, mostCols;  // of a block, for its panels to stay in cache
  size_t (*scratchBytes)(const GemmProblem& problem, int64_t m, int64_t n);  // of a block
  void (*run)(GemmTypes types, const GemmBlock& block);
};

LAZULI_DECLARE_ISA(GemmTable, gemm)

/// A problem run over every thread, with this project's own kernels.
class Gemm {
 public:
  explicit Gemm(GemmProblem problem);
  size_t scratchBytes() const { return threads_ * threadBytes_; }
  void run(const void* a, const void* b, void* c, const GemmEpilogue& epilogue, std::byte* scratch) const;

 private:
  void runTask(int64_t task, const void* a, const void* b, void* c, const GemmEpilogue& epilogue,
               std::byte* scratch) const;

  GemmProblem problem_;
  int64_t blockRows_, blockCols_;  // of c, a task each
  int64_t rowBlocks_, colBlocks_;
  size_t threads_, threadBytes_;
};

}  // namespace lazuli
