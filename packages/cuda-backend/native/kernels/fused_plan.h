#pragma once

#include "kernels/fused.h"

namespace lazuli {

inline constexpr int kMaxDims = 64;

/// A read or write of memory over the plan's dims.
struct TileAccess {
  uint32_t buffer = 0;  // among the reads, or the writes
  DType dtype = DType::f32;
  Dims strides;
  int64_t offset = 0;
  bool linear = false;  // dense in the plan's order: element i of the iteration lies at offset + i
  std::vector<PadWindow> pad;
};

struct TileStep {
  enum class Kind : uint8_t { constant, load, index, uniform, normal, op, store };
  Kind kind;
  TileFn fn = nullptr;
  int value;  // the one made (store: stored)
  int args[3] = {0, 0, 0};
  int access = -1;  // load, index, random: read over; store: written over
  int direct = -1;  // the access of a store in whose memory the value may be made, where that has no gaps
};

/// How the values are reduced: the iteration's dims lie as [outer kept | reduced | inner kept], inner kept
/// having one element where rows are reduced along the innermost dims.
struct ReduceShape {
  int64_t outer = 1, reduced = 1, inner = 1;
  Dims outerExtents,
      outerStrides;  // of the outputs, which are dense over the kept dims in their original order
  int64_t innerStride = 1;
};

/// A FusedSpec with its dims dropped, permuted and merged, its instructions chosen and its registers
/// assigned.
struct FusedPlan {
  FusedSpec spec;
  Dims extents;
  int64_t total = 0;
  int64_t chunk = 0;        // elements of a tile
  bool acrossRows = false;  // a tile holds several rows of the innermost dim
  int blockDim = -1;        // >= 0: tiles are blocks of this dim and the innermost, for transposed accesses
  ReduceShape reduce;
  std::vector<TileAccess> accesses;
  std::vector<TileStep> invariant;  // once for each thread
  std::vector<TileStep> steps;      // for every tile
  std::vector<size_t> slots;        // by value: place in the frame
  size_t frameBytes = 0;
  std::vector<std::pair<uint32_t, uint32_t>> inPlace;
  int64_t opsPerElement = 0;

  int64_t width() const { return extents.back(); }
};

FusedPlan planFused(FusedSpec spec);

/// The plan's extents, accesses and reduce, of its spec: dims of one element dropped, the others permuted and
/// merged. `accessOf`: by value, -1 where it reads nothing; `storeAccess`: by store.
void planDims(FusedPlan& plan, std::vector<int>& accessOf, std::vector<int>& storeAccess);

/// The plan's steps, slots and in-place pairs, once its accesses are there. `dead`: values that another one's
/// op has taken in.
void planSteps(FusedPlan& plan, const std::vector<bool>& dead, std::vector<int> accessOf,
               std::vector<int> storeAccess);

}  // namespace lazuli
