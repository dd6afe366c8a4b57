#include "index.h"
#include "walk.h"

namespace lazuli::cuda {

// Warps of a block, and updates that one warp sums alone.
constexpr int kSumWarps = 8, kSumAlone = 64;

/// Updates order[begin .. end) of a row's columns first.., the lanes of one column taking a slice each.
template <class T, int kCount>
struct SegmentSum {
  using A = Accumulator<T>;
  A sums[kCount];

  LAZULI_DEVICE void add(const IndexSumArgs& args, const T* updates, int64_t begin, int64_t end,
                         int64_t first) {
    const int lane = threadIdx.x & 31, slices = 32 / args.columns, slice = lane / args.columns;
    const int64_t count = end - begin;
    const int64_t stop = begin + count * (slice + 1) / slices;
    int64_t k = begin + count * slice / slices;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] = 0;
    if (first < args.inner) {
      constexpr int kFlight = 4;
      for (; k + kFlight <= stop; k += kFlight) {
        Elements<T, kCount> loaded[kFlight];
#pragma unroll
        for (int j = 0; j < kFlight; ++j)
          loaded[j] =
              loadElements<kCount>(updates + static_cast<int64_t>(args.order[k + j]) * args.inner + first);
#pragma unroll
        for (int j = 0; j < kFlight; ++j)
#pragma unroll
          for (int i = 0; i < kCount; ++i) sums[i] += load(loaded[j].at[i]);
      }
      for (; k < stop; ++k) {
        const auto loaded =
            loadElements<kCount>(updates + static_cast<int64_t>(args.order[k]) * args.inner + first);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] += load(loaded.at[i]);
      }
    }
    for (int step = args.columns; step < 32; step *= 2)
#pragma unroll
      for (int i = 0; i < kCount; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], step);
  }

  /// Each column's sum and what the base has there, by one lane.
  LAZULI_DEVICE void leave(const IndexSumArgs& args, int64_t row, int64_t first) const {
    if ((threadIdx.x & 31) >= static_cast<unsigned>(args.columns) || first >= args.inner) return;
    const int64_t at = row * args.inner + first;
    const T* base = static_cast<const T*>(args.base);
    Elements<T, kCount> elements;
    if (args.uniform) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) elements.at[i] = *base;
    } else {
      elements = loadElements<kCount>(base + at);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) store(&elements.at[i], load(elements.at[i]) + sums[i]);
    storeElements(static_cast<T*>(args.out) + at, elements);
  }
};

/// The end of the run of `key` that begins at `start`.
LAZULI_DEVICE int64_t endOf(const IndexSumArgs& args, int64_t start, unsigned key) {
  const int64_t next = start + 1 + (threadIdx.x & 31);
  const unsigned others =
      __ballot_sync(0xffffffffu, next >= args.n || args.keys[next < args.n ? next : 0] != key);
  if (others != 0) return start + __ffs(static_cast<int>(others));
  int64_t low = start + 33, high = args.n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (args.keys[middle] == key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// A warp for each sorted update that is the first of its row: it sums the row's, but where they are many the
/// block's warps share them.
template <class T, int kCount>
LAZULI_DEVICE void indexSum(const IndexSumArgs& args) {
  using A = Accumulator<T>;
  LAZULI_SHARED int64_t starts[kSumWarps], ends[kSumWarps];
  LAZULI_SHARED A rooms[kSumWarps][32][kCount];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.y) * args.columns + (lane & (args.columns - 1))) * kCount;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kSumWarps + warp;
  const unsigned key = start < args.n ? args.keys[start] : 0;
  const bool isFirst = start < args.n && key < args.size && (start == 0 || args.keys[start - 1] != key);
  int64_t end = start;
  if (isFirst) end = endOf(args, start, key);
  const bool isLong = end - start > kSumAlone;
  if (lane == 0) {
    starts[warp] = start;
    ends[warp] = isLong ? end : start;
  }
  __syncthreads();
  for (int64_t outer = blockIdx.z; outer < args.outer; outer += gridDim.z) {
    const T* updates = static_cast<const T*>(args.updates) + outer * args.n * args.inner;
    SegmentSum<T, kCount> segment;
    if (isFirst && !isLong) {
      segment.add(args, updates, start, end, first);
      segment.leave(args, outer * args.size + key, first);
    }
    for (int w = 0; w < kSumWarps; ++w) {
      const int64_t from = starts[w], count = ends[w] - from;
      if (count == 0) continue;
      segment.add(args, updates, from + count * warp / kSumWarps, from + count * (warp + 1) / kSumWarps,
                  first);
#pragma unroll
      for (int i = 0; i < kCount; ++i) rooms[warp][lane][i] = segment.sums[i];
      __syncthreads();
      if (warp == w) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          segment.sums[i] = rooms[0][lane][i];
          for (int other = 1; other < kSumWarps; ++other) segment.sums[i] += rooms[other][lane][i];
        }
        segment.leave(args, outer * args.size + key, first);
      }
      __syncthreads();
    }
  }
}

/// Elements that a lane sums side by side.
template <class T>
constexpr int kColumns = sizeof(T) == 1 ? 8 : Pack<T>::kCount;

#define LAZULI_INDEX_SUM(suffix, T)                                                     \
  LAZULI_KERNEL(lazuli_index_sum_##suffix, IndexSumArgs, 256) { indexSum<T, 1>(args); } \
  LAZULI_KERNEL(lazuli_index_sum_packs_##suffix, IndexSumArgs, 256) { indexSum<T, kColumns<T>>(args); }
LAZULI_NUMBERS(LAZULI_INDEX_SUM)

}  // namespace lazuli::cuda
