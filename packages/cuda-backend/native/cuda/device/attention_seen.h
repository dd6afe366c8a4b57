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

template <class T>
LAZULI_DEVICE const T* rowsOf(const AttentionTensor& tensor, int batch, int head) {
  return static_cast<const T*>(tensor.data) + batch * tensor.batch + head * tensor.head;
}

}  // namespace lazuli::cuda
