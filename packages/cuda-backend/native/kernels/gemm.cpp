#include "kernels/gemm.h"

#include <algorithm>

#include "parallel.h"

namespace lazuli {
namespace {

int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

/// The length of equal pieces of n, none above `most`, in multiples of `unit`.
int64_t pieceLength(int64_t n, int64_t pieces, int64_t unit) {
  return std::max<int64_t>(unit, ceilDiv(ceilDiv(n, std::max<int64_t>(pieces, 1)), unit) * unit);
}

constexpr double kTaskWork = 2e6;  // multiply-adds below which another task costs more than it saves

}  // namespace

Gemm::Gemm(GemmProblem problem) : problem_(std::move(problem)) {
  const GemmTable& table = gemm();
  const GemmProblem& p = problem_;
  const int64_t batch = static_cast<int64_t>(p.aBatch.size());
  const double work = static_cast<double>(batch) * static_cast<double>(p.m) * static_cast<double>(p.n) *
                      static_cast<double>(std::max<int64_t>(p.k, 1));
  threads_ = static_cast<size_t>(std::clamp<double>(work / (kTaskWork / 8), 1, threadCount()));
  const double wanted = threads_ == 1 ? 1
                                      : std::clamp<double>(work / kTaskWork, static_cast<double>(threads_),
                                                           4.0 * static_cast<double>(threads_));

  int64_t rowPieces = ceilDiv(p.m, table.mostRows), colPieces = ceilDiv(p.n, table.mostCols);
  for (;;) {
    blockRows_ = pieceLength(p.m, rowPieces, table.tileRows);
    blockCols_ = pieceLength(p.n, colPieces, table.tileCols);
    rowBlocks_ = ceilDiv(p.m, blockRows_);
    colBlocks_ = ceilDiv(p.n, blockCols_);
    if (static_cast<double>(batch * rowBlocks_ * colBlocks_) >= wanted) break;
    // The longer side is halved: square blocks are packed least.
    if (blockRows_ >= blockCols_ && blockRows_ > table.tileRows)
      rowPieces++;
    else if (blockCols_ > table.tileCols)
      colPieces++;
    else
      break;
  }
  threads_ = static_cast<size_t>(
      std::clamp<int64_t>(batch * rowBlocks_ * colBlocks_, 1, static_cast<int64_t>(threads_)));
  threadBytes_ = table.scratchBytes(p, std::min(blockRows_, p.m), std::min(blockCols_, p.n));
  threadBytes_ = (threadBytes_ + 63) / 64 * 64;
}

void Gemm::runTask(int64_t task, const void* a, const void* b, void* c, const GemmEpilogue& epilogue,
                   std::byte* scratch) const {
  const GemmProblem& p = problem_;
  const int64_t batch = task / (rowBlocks_ * colBlocks_);
  const int64_t row = task / colBlocks_ % rowBlocks_ * blockRows_, col = task % colBlocks_ * blockCols_;
  const int64_t in = static_cast<int64_t>(sizeBytes(p.types.in)),
                out = static_cast<int64_t>(sizeBytes(p.types.out));
  const int64_t aAt = p.aBatch[static_cast<size_t>(batch)] + row * p.aRow;
  const int64_t bAt = p.bBatch[static_cast<size_t>(batch)] + col * p.bCol;
  const int64_t cAt = batch * p.m * p.n + row * p.n + col;
  const auto at = [](const void* base, int64_t bytes) {
    return base ? static_cast<const void*>(static_cast<const std::byte*>(base) + bytes) : nullptr;
  };
  const GemmBlock block{at(a, aAt * in),
                        p.aRow,
                        p.aCol,
                        at(b, bAt * in),
                        p.bRow,
                        p.bCol,
                        static_cast<std::byte*>(c) + cAt * out,
                        p.n,
                        std::min(blockRows_, p.m - row),
                        std::min(blockCols_, p.n - col),
                        p.k,
                        p.wholeRows,
                        {at(epilogue.bias, col * out), epilogue.activation, at(epilogue.residual, cAt * out)},
                        scratch};
  gemm().run(p.types, block);
}

void Gemm::run(const void* a, const void* b, void* c, const GemmEpilogue& epilogue,
               std::byte* scratch) const {
  const int64_t tasks = static_cast<int64_t>(problem_.aBatch.size()) * rowBlocks_ * colBlocks_;
  parallelTasks(tasks, static_cast<int>(threads_), [&](int64_t task, int thread) {
    runTask(task, a, b, c, epilogue, scratch + static_cast<size_t>(thread) * threadBytes_);
  });
}

}  // namespace lazuli
