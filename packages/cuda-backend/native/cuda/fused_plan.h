#pragma once

#include "kernels/fused_plan.h"

namespace lazuli::cuda {

/// How one part of a fused group is spread over a GPU. By shape alone, so that the code can be made, and the
/// results are the same, whatever the GPU.
///
/// A thread works on vectors: `vector` neighbouring elements of the innermost dim. `unroll` of them are
/// loaded before the first is worked on.
struct FusedGrid {
  enum class Kind : uint8_t {
    nothing,  // no element, and nothing to write
    map,      // a vector of the space a thread
    squares,  // map over squares of two dims, through shared memory, for transposed accesses
    rows,     // reduced along the innermost dims: `lanes` threads a row, or a block
    columns   // reduced along outer dims: `lanes` threads side by side along the innermost
  };
  /// How a buffer is read or written along the innermost dim.
  struct Access {
    enum class Kind : uint8_t {
      invariant,  // one element for all
      broadcast,  // one element for a vector
      vector,     // pieces of `width` elements
      strided,    // element by element
      padded,     // element by element, where the innermost dim lies inside
      turned      // of squares: across, through shared memory
    };
    Kind kind = Kind::strided;
    int width = 1;
  };

  FusedPlan plan;                          // spec, extents, accesses, reduce: the CPU's steps are not there
  std::vector<int> accessOf, storeAccess;  // by value; by store
  std::vector<Access> accesses;            // as plan.accesses
  Kind kind = Kind::nothing;
  int squareDim = -1;  // squares: the other dim
  int vector = 1, unroll = 1, threads = 256, lanes = 1;
  int64_t pieces = 1;      // of a reduction, joined by a second kernel
  int64_t length = 0;      // reduced vectors (rows) or reduced rows (columns) of a piece
  bool wideIndex = false;  // 64-bit element numbers
  bool twoLevels = false;  // threads join their float32 sums into float64 ones now and then
  uint64_t blocks = 0;     // of the x dim; pieces are the y dim

  int64_t width() const { return plan.extents.back(); }
  /// Vectors of a row of the innermost dim.
  int64_t vectors() const { return width() == 0 ? 0 : (width() - 1) / vector + 1; }
  bool hasTail() const { return width() % vector != 0; }
  int64_t outputs() const { return plan.reduce.outer * plan.reduce.inner; }
};

inline constexpr int kSquare = 32;  // elements along a side
inline constexpr int kFlushSteps =
    32;  // vectors or rows that a thread joins in float32 before it goes to float64

FusedGrid planGrid(FusedSpec spec);

/// (write, read) pairs whose memory may be the same: a thread reads an element before it, or one that it
/// waits for, writes there.
std::vector<std::pair<uint32_t, uint32_t>> inPlacePairs(const FusedSpec& spec);

}  // namespace lazuli::cuda
