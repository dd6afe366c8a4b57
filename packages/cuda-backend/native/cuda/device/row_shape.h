#pragma once

// How kernels over rows are told of them. Shared by the host and every device compiler.

namespace lazuli::cuda {

// Packs of 16 bytes of a row that a thread holds in registers: of one operand, or each of two.
inline constexpr int kRowPacks = 4, kRowPairPacks = 2;
// Threads of a block at most.
inline constexpr int kRowThreads = 512;

struct RowShape {
  long long rows, width;
  int lanes;  // threads of a row: a power of two up to 32, or the block's
};

/// Rows of an operand, `stride` elements apart. `aligned`: a row's packs have their alignment.
template <class Pointer>
struct RowsOf {
  Pointer data;  // of row 0
  long long stride;
  int aligned;
};
using RowsIn = RowsOf<const void*>;
using RowsOut = RowsOf<void*>;

}  // namespace lazuli::cuda
