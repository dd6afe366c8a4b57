#pragma once

#include "kernels/fused_plan.h"

namespace lazuli {

/// Runs a plan's steps tile by tile, on one thread, over a stretch of the iteration space.
class TileEngine {
 public:
  TileEngine(const FusedPlan& plan, const KernelArgs& args);

  /// Evaluates the tile that begins at element `start` (row-major over the plan's extents) and ends at `end`
  /// at the latest; returns its elements.
  int64_t tile(int64_t start, int64_t end);
  /// A block of `rows` along plan.blockDim and `columns` along the innermost dim; `index` is its first
  /// element's.
  void block(const int64_t* index, int64_t rows, int64_t columns);
  /// The value's last tile.
  const std::byte* value(int value) const { return values_[value]; }

 private:
  void seek(int64_t start);
  void runInvariant();
  void load(const TileStep& step, int64_t start, int64_t n);
  void loadPadded(const TileStep& step, std::byte* out, int64_t n);
  void loadPaddedRun(const TileStep& step, const int64_t* index, int64_t column, std::byte* out, int64_t n);
  void makeIndices(const TileStep& step, std::byte* out, int64_t first, int64_t stride, int64_t n);
  void store(const TileStep& step, int64_t start, int64_t n);
  void prefetchBlock(const TileAccess& access, const std::byte* place, int64_t rows, int64_t columns) const;
  std::byte* contiguous(const TileAccess& access, int number, int64_t start, int64_t n) const;
  /// Calls body(offset, elements before, elements) for each row's run of the tile.
  template <class Body>
  void eachRun(const TileAccess& access, int number, int64_t n, Body&& body) const;
  std::byte* place(const TileStep& step, int64_t start, int64_t n) const;
  std::byte* slot(int value) const { return frame_ + plan_.slots[value]; }

  const FusedPlan& plan_;
  const TileTable& table_;
  std::byte* frame_;
  std::vector<std::byte*> values_;  // by value: where its tile lies
  std::vector<std::byte*> bases_;   // by access: the buffer
  std::vector<RandomKey> keys_;     // by value
  std::vector<int64_t> offsets_;    // by access: of the current row's first element
  int64_t index_[kMaxDims] = {};    // of the current row
  int64_t rowStart_ = 0, column_ = 0;
};

}  // namespace lazuli
