#pragma once

#include "strided.h"

namespace lazuli::cuda {

// Bytes of items that a block sorts in shared memory, and threads.
inline constexpr int kSortBytes = 32 * 1024, kSortThreads = 512;

/// The first k of each line of n elements, in order. Results are [outer, k, inner].
struct SortArgs {
  const void* x;
  void* values;
  int* indices;
  Strided at;        // the lines of x
  long long stride;  // of x along a line
  long long firstLine, lines, n, k, inner;
  int descending;
  // In one block: lines of it, and a line's length as a power of two.
  int blockLines, padded;
  // In several: see radix_sort.h.
  void* keys;
  unsigned* order;
};

}  // namespace lazuli::cuda
