#pragma once

// Which keys a query sees.

#include "attention.h"
#include "simt.h"

namespace lazuli::cuda {

/// Query i sees keys j with i + begin <= j < i + end, of those that there are.
struct Band {
  int begin, end;

  LAZULI_DEVICE bool has(int query, int key) const { return key >= query + begin && key < query + end; }
};

LAZULI_DEVICE int clamped(long long x, int low, int high) {
  return x < low ? low : x > high ? high : static_cast<int>(x);
}

LAZULI_DEVICE Band bandOf(const AttentionArgs& args) {
  const long long end = args.offset + (args.shift ? __ldg(args.shift) : 0) + 1;
  // Beyond these nothing changes, and sums with a query's number stay small.
  const int none = -args.queries, all = args.keys;
  return {args.window > 0 ? clamped(end - args.window, none, all) : none,
          args.causal ? clamped(end, none, all) : all};
}

/// Two neighbouring tiles' ends, in rows.
struct Range {
  int first, last;  // [first, last)
};
/// The keys that some of the queries [first, last) may see.
LAZULI_DEVICE Range keysOf(const AttentionArgs& args, const Band& band, int first, int last) {
  return {max(0, first + band.begin), min(args.keys, last - 1 + band.end)};
}
/// The queries that may see some of the keys [first, last).
LAZULI_DEVICE Range queriesOf(const AttentionArgs& args, const Band& band, int first, int last) {
  return {max(0, first - band.end + 1), min(args.queries, last - band.begin)};
}

/// Where a block works: the `tile`-th tile of a head.
struct HeadTile {
  int batch, head, tile;
};
/// Of a grid of tiles x heads x batch; `reversed`: a head's last tile first.
LAZULI_DEVICE HeadTile headTileOf(int rows, int rowsPerTile, int heads, bool reversed) {
  const int tiles = (rows + rowsPerTile - 1) / rowsPerTile, tile = static_cast<int>(blockIdx.x) % tiles;
  const int pair = static_cast<int>(blockIdx.x) / tiles;
  return {pair / heads, pair % heads, reversed ? tiles - 1 - tile : tile};
}

LAZULI_DEVICE const int* segmentsOf(const int* segments, int batch, int rows) {
  return segments ? segments + static_cast<long long>(batch) * rows : nullptr;
}

/// Which columns of a tile a row of it sees: [low, high), from the thread's first column on.
struct SeenColumns {
  int low, high;

  LAZULI_DEVICE static SeenColumns ofQuery(const AttentionArgs& args, const Band& band, int query, int key) {
    return {query + band.begin - key, min(query + band.end, args.keys) - key};
  }
  LAZULI_DEVICE static SeenColumns ofKey(const AttentionArgs& args, const Band& band, int key, int query) {
    return {key - band.end + 1 - query,
            key < args.keys ? min(key - band.begin + 1, args.queries) - query : 0};
  }
  LAZULI_DEVICE bool has(int column) const { return column >= low && column < high; }
};

/// Puts `value` where a tile's rows, which are queries or else keys, do not see its columns. The tile is as
/// multiplyAdd leaves it: this thread has rows `row` and row + 8, columns column + 8 n and the next. Without
/// a branch for an element: a tile on the diagonal is then little more work than one below it.
template <bool kRowsAreQueries, int kTiles>
LAZULI_DEVICE void hideUnseen(float (&tile)[kTiles][4], float value, const AttentionArgs& args,
                              const Band& band, int batch, int row, int column) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int own = row + half * 8;
    const SeenColumns seen = kRowsAreQueries ? SeenColumns::ofQuery(args, band, own, column)
                                             : SeenColumns::ofKey(args, band, own, column);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& at = tile[n][2 * half + c];
        at = seen.has(n * 8 + c) ? at : value;
      }
    }
  }
  if (!args.keySegments) return;
  const int *queries = segmentsOf(args.querySegments, batch, args.queries),
            *keys = segmentsOf(args.keySegments, batch, args.keys);
  const int *ofRows = kRowsAreQueries ? queries : keys, *ofColumns = kRowsAreQueries ? keys : queries;
  const int lastRow = (kRowsAreQueries ? args.queries : args.keys) - 1,
            lastColumn = (kRowsAreQueries ? args.keys : args.queries) - 1;
  const int low = __ldg(ofRows + min(row, lastRow)), high = __ldg(ofRows + min(row + 8, lastRow));
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int segment = __ldg(ofColumns + min(column + n * 8 + c, lastColumn));
      tile[n][c] = segment == low ? tile[n][c] : value;
      tile[n][2 + c] = segment == high ? tile[n][2 + c] : value;
    }
  }
}

template <class T>
LAZULI_DEVICE const T* rowsOf(const AttentionTensor& tensor, int batch, int head) {
  return static_cast<const T*>(tensor.data) + batch * tensor.batch + head * tensor.head;
}
template <class T>
LAZULI_DEVICE T* rowsOf(const AttentionResult& result, int batch, int head) {
  return static_cast<T*>(result.data) + batch * result.batch + head * result.head;
}

}  // namespace lazuli::cuda
