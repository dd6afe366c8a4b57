#pragma once

// What attention's kernels for sm_90a share: a block has 128 rows of queries or keys, 64 for each of two
// warpgroups, and goes over tiles of the other side, which a third warpgroup's first warp has loaded.

#include "attention_tiles.h"
#include "ptx_sm90.h"

namespace lazuli::cuda {

inline constexpr int kRows = 128, kGroupRows = 64, kThreads = 384;
inline constexpr int kConsumerWarps = 8;
// Of 65536, which 384 threads have 168 each of at first: 2 x 128 x 232 + 128 x 40.
inline constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
// Named barriers.
inline constexpr int kGroupBarrier = 1, kTurnBarrier = 3;  // and the next, of the other warpgroup

LAZULI_DEVICE int warpgroup() {
  // The same for all lanes, which a compiler sees of a value from a lane.
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
}

/// kCount rows of kDepth elements as bulk copies lay them and products read them: slabs of kSpan columns, in
/// which a row is 128 or 64 bytes, swizzled as wide.
template <class T, int kDepth, int kCount>
struct Slabs {
  static constexpr int kSpan = attentionBoxColumns(kDepth), kSlabs = kDepth / kSpan, kRowBytes = kSpan * 2;
  static constexpr int kSlabBytes = kCount * kRowBytes, kBytes = kSlabs * kSlabBytes;
  static_assert(kCount % kAttentionBox == 0);
  unsigned char* data;  // at a multiple of 1024

  /// Starts to load the rows from `row` on, zeros for those that there are not.
  LAZULI_DEVICE void load(const TensorMap& map, Barrier* barrier, int row, int head, int batch) const {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab)
#pragma unroll
      for (int box = 0; box < kCount; box += kAttentionBox)
        loadBox(data + slab * kSlabBytes + box * kRowBytes, map, barrier, slab * kSpan, row + box, head,
                batch);
  }

  /// Columns 16 * step.. + 16 of all rows, along which a product sums.
  LAZULI_DEVICE uint64_t along(int step) const {
    const int column = step * 16;
    return matrixAt<kRowBytes>(data + column / kSpan * kSlabBytes + column % kSpan * 2, 16, 8 * kRowBytes);
  }
  /// Rows 16 * step.. + 16 of all columns, or of those from a slab's first on; a product sums over the rows.
  LAZULI_DEVICE uint64_t across(int step, int column = 0) const {
    return matrixAt<kRowBytes>(data + column / kSpan * kSlabBytes + step * 16 * kRowBytes, kSlabBytes,
                               8 * kRowBytes);
  }
};

/// to = left right^T, of 64 left rows.
template <class T, int kDepth, int kCount>
LAZULI_DEVICE void dots(float (&to)[kCount / 8][4], const Slabs<T, kDepth, kGroupRows>& left,
                        const Slabs<T, kDepth, kCount>& right) {
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step)
    multiplyShared<T>(to, left.along(step), right.along(step), step > 0);
}

/// sums += weights rows, the weights as packWeights packed them.
template <class T, int kDepth, int kCount>
LAZULI_DEVICE void addRows(float (&sums)[kDepth / 8][4], const uint32_t (&weights)[kCount / 16][4],
                           const Slabs<T, kDepth, kCount>& rows) {
#pragma unroll
  for (int step = 0; step < kCount / 16; ++step) multiplyRegisters<T>(sums, weights[step], rows.across(step));
}
template <class T, int kTiles>
LAZULI_DEVICE void packWeights(uint32_t (&to)[kTiles / 2][4], const float (&values)[kTiles][4]) {
#pragma unroll
  for (int step = 0; step < kTiles / 2; ++step) packLeft<T>(to[step], values, step);
}

template <int kTiles>
LAZULI_DEVICE void clear(float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) values[n][0] = values[n][1] = values[n][2] = values[n][3] = 0;
}

/// Stores a warpgroup's 64 rows of results from `to` on, `stride` elements apart, those below `count`, by way
/// of its own 64 rows of an operand, which it has used.
template <class T, int kDepth>
LAZULI_DEVICE void storeRows(const float (&values)[kDepth / 8][4], float low, float high,
                             unsigned char* shared, T* to, long long stride, int count) {
  const Tile<T, kDepth> tile{reinterpret_cast<T*>(shared)};
  tile.store(values, low, high, static_cast<int>(threadIdx.x) % 128 / 32 * 16, to, stride, count);
}
/// Until the warps of one's warpgroup are here.
LAZULI_DEVICE void meetGroup(int group) { meet(kGroupBarrier + group, 128); }

/// Places in shared memory that are filled and emptied in turn: `index` counts the fillings from 0 on.
template <int kStages>
struct Ring {
  Barrier *full, *empty;  // kStages each

  LAZULI_DEVICE void init() const {
    for (int i = 0; i < kStages; ++i) initBarrier(full + i, 1), initBarrier(empty + i, kConsumerWarps);
  }
  LAZULI_DEVICE static int place(int index) { return index % kStages; }
  LAZULI_DEVICE Barrier* filled(int index) const { return full + place(index); }
  LAZULI_DEVICE void awaitFull(int index) const { waitFor(full + place(index), index / kStages & 1); }
  LAZULI_DEVICE void awaitEmpty(int index) const { waitFor(empty + place(index), (index / kStages & 1) ^ 1); }
  /// By every consumer warp.
  LAZULI_DEVICE void release(int index) const {
    if (threadIdx.x % 32 == 0) arrive(empty + place(index));
  }
};

}  // namespace lazuli::cuda
