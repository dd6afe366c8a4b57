#pragma once

namespace lazuli::cuda {

inline constexpr int kScanThreads = 256, kScanItems = 8, kScanTile = kScanThreads * kScanItems;

/// x and y as [outer, length, inner]. A line is cut into `chunks` of `chunkLength`, whose totals [outer,
/// chunks, inner], of what is accumulated in, are found first where there are several.
struct CumsumArgs {
  const void* x;
  void* y;
  void* totals;
  long long outer, length, inner, chunks, chunkLength;
  int reverse;
};

}  // namespace lazuli::cuda
