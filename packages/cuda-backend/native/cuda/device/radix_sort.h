#pragma once

namespace lazuli::cuda {

// Items of a block, in one pass over a digit.
inline constexpr int kRadixThreads = 256, kRadixItems = 8, kRadixTile = kRadixThreads * kRadixItems;
inline constexpr int kRadixDigits = 256;

/// One pass of a stable sort of `lines` lines of n keys, each with a number that goes along. A line's blocks
/// count their digits into counts [lines, kRadixDigits, blocks], which are added up to where they begin, and
/// move their items there.
struct RadixArgs {
  const void* keys;  // uint32 or uint64, as the kernel's name says
  const unsigned* order;
  void* keysOut;
  unsigned* orderOut;
  unsigned* counts;
  long long n, blocks;
  int shift;  // of the digit
};

}  // namespace lazuli::cuda
