#pragma once

// Tiles of bfloat16 or float16 rows in shared memory, and what a warp's matrix products read of them.

#include "attention_seen.h"
#include "ptx.h"

namespace lazuli::cuda {

/// Rows of kDepth elements in shared memory: their 16-byte chunks are permuted row by row, so that the eight
/// rows that ldmatrix reads at once lie in different banks.
template <class T, int kDepth>
struct Tile {
  static_assert(kDepth % 64 == 0 || kDepth == 96);
  static constexpr int kChunks = kDepth / 8;
  T* data;

  LAZULI_DEVICE T* chunk(int row, int chunk) const { return chunkOf(row, row & 7, chunk); }
  /// Where row % 8 is `rest`, which a compiler cannot always see.
  LAZULI_DEVICE T* chunkOf(int row, int rest, int chunk) const {
    return data + row * kDepth + (chunk ^ (kDepth % 64 == 0 ? rest : rest >> 1)) * 8;
  }

  /// Starts to load rows `first`.. of `count` that there are; zeros for those beyond.
  template <int kRows, int kThreads>
  LAZULI_DEVICE void load(const T* rows, long long stride, int first, int count) const {
#pragma unroll 2
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int at = i * kThreads + static_cast<int>(threadIdx.x), row = at / kChunks, c = at % kChunks;
      const bool there = first + row < count;
      copyAsync(chunk(row, c), rows + (there ? first + row : 0) * stride + c * 8, there);
    }
  }

  // Below `row` is a multiple of 8.

  /// Rows row.. + 16, columns 16 * step.. + 16 as the left operand; or, of the same rows and columns,
  /// transposed: two right operands of 8 columns each, to[0], to[1] and to[2], to[3].
  template <bool kTransposed>
  LAZULI_DEVICE void square(uint32_t (&to)[4], int row, int step) const {
    const int lane = threadIdx.x & 31;
    loadMatrices<kTransposed>(to, chunkOf(row + (lane & 15), lane & 7, step * 2 ^ (lane >> 4)));
  }
  LAZULI_DEVICE void left(uint32_t (&to)[4], int row, int step) const { square<false>(to, row, step); }
  LAZULI_DEVICE void right(uint32_t (&to)[4], int row, int step) const { square<true>(to, row, step); }
  /// Rows row.. + 16 as the columns of two right operands.
  LAZULI_DEVICE void rightRows(uint32_t (&to)[4], int row, int step) const {
    const int lane = threadIdx.x & 31;
    loadMatrices<false>(to,
                        chunkOf(row + (lane & 7) + (lane >> 4) * 8, lane & 7, step * 2 ^ (lane >> 3 & 1)));
  }

  /// A warp's 16 rows from `row` on, columns 8 * first.. on, as multiplyAdd leaves them.
  template <int kTiles>
  LAZULI_DEVICE void put(const float (&values)[kTiles][4], int row, int first) const {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      uint32_t* upper = reinterpret_cast<uint32_t*>(chunk(row + lane / 4, first + n)) + lane % 4;
      uint32_t* lower = reinterpret_cast<uint32_t*>(chunk(row + lane / 4 + 8, first + n)) + lane % 4;
      *upper = packPair<T>(values[n][0], values[n][1]);
      *lower = packPair<T>(values[n][2], values[n][3]);
    }
  }

  /// A warp's 16 rows from `row` on, of which those below `count` are stored to `to`, rows `stride` elements
  /// apart: through shared memory, which no other warp may use at these rows, in whole chunks.
  LAZULI_DEVICE void store(const float (&values)[kDepth / 8][4], float low, float high, int row, T* to,
                           long long stride, int count) const {
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kDepth / 8; ++n) {
      uint32_t* upper = reinterpret_cast<uint32_t*>(chunk(row + lane / 4, n)) + lane % 4;
      uint32_t* lower = reinterpret_cast<uint32_t*>(chunk(row + lane / 4 + 8, n)) + lane % 4;
      *upper = packPair<T>(values[n][0] * low, values[n][1] * low);
      *lower = packPair<T>(values[n][2] * high, values[n][3] * high);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kChunks / 2; ++i) {
      const int at = i * 32 + lane, r = at / kChunks, c = at % kChunks;
      if (row + r < count)
        *reinterpret_cast<uint4*>(to + (row + r) * stride + c * 8) =
            *reinterpret_cast<const uint4*>(chunk(row + r, c));
    }
  }
};

/// The left operand of columns 16 * step.. + 16 of what a warp holds as results.
template <class T, int kTiles>
LAZULI_DEVICE void packLeft(uint32_t (&to)[4], const float (&values)[kTiles][4], int step) {
  to[0] = packPair<T>(values[2 * step][0], values[2 * step][1]);
  to[1] = packPair<T>(values[2 * step][2], values[2 * step][3]);
  to[2] = packPair<T>(values[2 * step + 1][0], values[2 * step + 1][1]);
  to[3] = packPair<T>(values[2 * step + 1][2], values[2 * step + 1][3]);
}

/// Which tiles of 64 queries or keys can have a segment in common with a block's own rows.
struct SegmentFilter {
  const int* ranges;  // of the tiles; null: all can
  int lowest, highest;

  /// `own`: the ranges of `count` tiles of the block.
  LAZULI_DEVICE SegmentFilter(const int* ranges, const int* own, int count) : ranges(ranges) {
    if (!ranges) return;
    lowest = own[0], highest = own[1];
    for (int i = 1; i < count; ++i) lowest = min(lowest, own[2 * i]), highest = max(highest, own[2 * i + 1]);
  }
  /// The first tile of kRows from `tile` on that can, `end` where there is none.
  template <int kRows>
  LAZULI_DEVICE int next(int tile, int end) const {
#pragma unroll 1
    while (ranges && tile < end) {
      const int* range = ranges + tile / (kAttentionRange / kRows) * 2;
      if (range[0] <= highest && range[1] >= lowest) break;
      ++tile;
    }
    return tile < end ? tile : end;
  }
  /// The same of tiles of several kAttentionRange rows, of `rows` in all.
  template <int kRows>
  LAZULI_DEVICE int nextOf(int tile, int end, int rows) const {
    constexpr int kEach = kRows / kAttentionRange;
    const int count = (rows + kAttentionRange - 1) / kAttentionRange;
#pragma unroll 1
    for (; ranges && tile < end; ++tile) {
      bool any = false;
#pragma unroll 1
      for (int i = tile * kEach; i < min((tile + 1) * kEach, count); ++i)
        any |= ranges[2 * i] <= highest && ranges[2 * i + 1] >= lowest;
      if (any) break;
    }
    return tile < end ? tile : end;
  }
};
LAZULI_DEVICE const int* rangesOf(const int* ranges, int batch, int rows) {
  return ranges
             ? ranges + static_cast<long long>(batch) * ((rows + kAttentionRange - 1) / kAttentionRange) * 2
             : nullptr;
}

inline constexpr float kLog2OfE = 1.44269504088896340736f, kLogOf2 = 0.693147180559945309417f;

}  // namespace lazuli::cuda
