// The gradient of FlashAttention-2 (Dao, https://arxiv.org/abs/2307.08691) on tensor cores by mma.sync. Two
// kernels, each of which computes the weights again and owns what it sums, so that nothing is added in an
// order that may differ: one has 128 keys of a group and goes over all queries of the group's heads (dk, dv),
// one 128 queries of a head and goes over their keys (dq). Or the first adds up dq too, in the GPU's memory.

#include "attention_tiles.h"

namespace lazuli::cuda {
namespace {

constexpr int kRows = 128, kThreads = 256, kWarpRows = 16;
constexpr int kColumns = 64;  // of the other side in shared memory, in two places
constexpr int kAcross = 32;   // at a time in registers

template <int kTiles>
LAZULI_DEVICE void clear(float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) values[n][0] = values[n][1] = values[n][2] = values[n][3] = 0;
}

template <class T, int kDepth>
struct Backward {
  using Rows = Tile<T, kDepth>;

  /// products of 16 left rows and kAcross rows of the other side.
  LAZULI_DEVICE static void dots(float (&s)[kAcross / 8][4], const Rows& left, int row, const Rows& across,
                                 int column) {
    clear(s);
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t a[4];
      left.left(a, row, step);
#pragma unroll
      for (int n = 0; n < kAcross / 16; ++n) {
        uint32_t b[4];
        across.rightRows(b, column + n * 16, step);
        multiplyAdd<T>(s[2 * n], a, b[0], b[1]);
        multiplyAdd<T>(s[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  /// sums += weights times kAcross rows.
  LAZULI_DEVICE static void add(float (&sums)[kDepth / 8][4], const float (&weights)[kAcross / 8][4],
                                const Rows& across, int column) {
#pragma unroll
    for (int step = 0; step < kAcross / 16; ++step) {
      uint32_t a[4];
      packLeft<T>(a, weights, step);
#pragma unroll
      for (int n = 0; n < kDepth / 16; ++n) {
        uint32_t b[4];
        across.right(b, column + step * 16, n);
        multiplyAdd<T>(sums[2 * n], a, b[0], b[1]);
        multiplyAdd<T>(sums[2 * n + 1], a, b[2], b[3]);
      }
    }
  }
};

/// Whether the queries and keys of these tiles all see each other.
LAZULI_DEVICE bool allSee(const AttentionArgs& args, const Band& band, int query, int queries, int key,
                          int keys) {
  return query + queries <= args.queries && key + keys <= args.keys &&
         query + queries - 1 + band.begin <= key && key + keys - 1 < query + band.end && !args.querySegments;
}

/// Adds 128 keys' part of dq's of kColumns queries; `changes`: the gradients of their scores, as [key,
/// query].
template <class T, int kDepth>
LAZULI_DEVICE void addQueryGradients(const AttentionArgs& args, const Tile<T, kColumns>& changes,
                                     const Tile<T, kDepth>& k, long long head, int query) {
  const int lane = threadIdx.x & 31;
  for (int at = static_cast<int>(threadIdx.x) / 32; at < kColumns / 16 * (kDepth / 16); at += kThreads / 32) {
    const int rows = at % (kColumns / 16), columns = at / (kColumns / 16);
    float sums[2][4];
    clear(sums);
#pragma unroll
    for (int key = 0; key < kRows; key += 16) {
      uint32_t t[4], b[4];
      changes.template square<true>(t, key, rows);
      const uint32_t a[4] = {t[0], t[2], t[1], t[3]};
      k.right(b, key, columns);
      multiplyAdd<T>(sums[0], a, b[0], b[1]);
      multiplyAdd<T>(sums[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = query + rows * 16 + half * 8 + lane / 4;
      if (row >= args.queries) continue;
      float* to = args.dqSums + (head * args.queries + row) * kDepth + columns * 16 + lane % 4 * 2;
      addPair(to, sums[0][2 * half], sums[0][2 * half + 1]);
      addPair(to + 8, sums[1][2 * half], sums[1][2 * half + 1]);
    }
  }
}

template <class T, int kDepth, bool kAddsQueries>
LAZULI_DEVICE void keyGradients(const AttentionArgs& args, unsigned char* bytes) {
  using B = Backward<T, kDepth>;
  using Rows = typename B::Rows;
  constexpr int kTile = kColumns * kDepth;
  const HeadTile at = headTileOf(args.keys, kRows, args.groups, false);
  const int heads = args.heads / args.groups, first = at.tile * kRows;
  const int lane = threadIdx.x & 31, row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  T* data = reinterpret_cast<T*>(bytes);
  const Rows k{data}, v{data + kRows * kDepth};
  T* columns = data + 2 * kRows * kDepth;                // q, dout, q, dout
  const Tile<T, kColumns> changes{columns + 4 * kTile};  // where queries' gradients are added
  // Of the queries: by what their weights are scaled down, and what is taken from their gradients.
  LAZULI_SHARED float lses[2][kColumns], deltas[2][kColumns];
  const Band band = bandOf(args);
  const Range range = queriesOf(args, band, first, min(first + kRows, args.keys));
  const int begin = range.first / kColumns,
            end = range.last > range.first ? (range.last + kColumns - 1) / kColumns : 0;
  const int* own = rangesOf(args.keyRanges, at.batch, args.keys);
  const SegmentFilter filter(rangesOf(args.queryRanges, at.batch, args.queries),
                             own ? own + first / kAttentionRange * 2 : nullptr,
                             (min(first + kRows, args.keys) - 1 - first) / kAttentionRange + 1);
  const float scale = static_cast<float>(args.scale) * kLog2OfE;

  float dk[kDepth / 8][4], dv[kDepth / 8][4];
  clear(dk);
  clear(dv);
  const auto loadColumns = [&](int place, int head, int tile) {
    Rows{columns + place * 2 * kTile}.template load<kColumns, kThreads>(
        rowsOf<T>(args.q, at.batch, head), args.q.row, tile * kColumns, args.queries);
    Rows{columns + (place * 2 + 1) * kTile}.template load<kColumns, kThreads>(
        rowsOf<T>(args.dout, at.batch, head), args.dout.row, tile * kColumns, args.queries);
    if (threadIdx.x < kColumns) {
      const int query = tile * kColumns + static_cast<int>(threadIdx.x);
      const long long index = (static_cast<long long>(at.batch) * args.heads + head) * args.queries + query;
      const bool there = query < args.queries;
      const float lse = there ? args.lse[index] : lowest<float>();
      // A row that sees nothing has weights 2^-inf.
      lses[place][threadIdx.x] = lse == lowest<float>() ? -lowest<float>() : lse * kLog2OfE;
      deltas[place][threadIdx.x] = there ? static_cast<const float*>(args.delta)[index] : 0.0f;
    }
  };
  // Head by head, tile by tile.
  const int lastHead = (at.head + 1) * heads, start = filter.template next<kColumns>(begin, end);
  int head = start < end ? at.head * heads : lastHead, tile = start, place = 0;
  k.template load<kRows, kThreads>(rowsOf<T>(args.k, at.batch, at.head), args.k.row, first, args.keys);
  v.template load<kRows, kThreads>(rowsOf<T>(args.v, at.batch, at.head), args.v.row, first, args.keys);
  if (head < lastHead) loadColumns(0, head, tile);
  commitCopies();
  while (head < lastHead) {
    const int query = tile * kColumns, ofHead = head;
    tile = filter.template next<kColumns>(tile + 1, end);
    if (tile == end) tile = start, ++head;
    waitCopies<0>();
    __syncthreads();  // this tile is here, and the one before it was used
    if (head < lastHead) loadColumns(1 - place, head, tile);
    commitCopies();
    const Rows q{columns + place * 2 * kTile}, dout{columns + (place * 2 + 1) * kTile};
#pragma unroll 1
    for (int across = 0; across < kColumns; across += kAcross) {
      const bool whole = allSee(args, band, query + across, kAcross, first, kRows);
      float s[kAcross / 8][4], ds[kAcross / 8][4];
      B::dots(s, k, row, q, across);
      B::dots(ds, v, row, dout, across);
#pragma unroll
      for (int n = 0; n < kAcross / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int column = across + n * 8 + lane % 4 * 2 + c % 2;
          s[n][c] = exp2Fast(__fmaf_rn(s[n][c], scale, -lses[place][column]));
          ds[n][c] -= deltas[place][column];
        }
      }
      if (!whole)
        hideUnseen<false>(s, 0, args, band, at.batch, computedAnew(first + row + lane / 4),
                          computedAnew(query + across + lane % 4 * 2));
#pragma unroll
      for (int n = 0; n < kAcross / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) ds[n][c] *= s[n][c];
      B::add(dv, s, dout, across);
      B::add(dk, ds, q, across);
      if constexpr (kAddsQueries) changes.put(ds, row, across / 8);
    }
    if constexpr (kAddsQueries) {
      __syncthreads();
      addQueryGradients<T, kDepth>(args, changes, k, static_cast<long long>(at.batch) * args.heads + ofHead,
                                   query);
    }
    place = 1 - place;
  }
  waitCopies<0>();
  __syncthreads();
  const float factor = static_cast<float>(args.scale);
  k.store(dk, factor, factor, row, rowsOf<T>(args.dk, at.batch, at.head) + first * args.dk.row, args.dk.row,
          args.keys - first);
  v.store(dv, 1, 1, row, rowsOf<T>(args.dv, at.batch, at.head) + first * args.dv.row, args.dv.row,
          args.keys - first);
}

template <class T, int kDepth>
LAZULI_DEVICE void queryGradients(const AttentionArgs& args, unsigned char* bytes) {
  using B = Backward<T, kDepth>;
  using Rows = typename B::Rows;
  constexpr int kTile = kColumns * kDepth;
  const HeadTile at = headTileOf(args.queries, kRows, args.heads, true);
  const int group = at.head / (args.heads / args.groups), first = at.tile * kRows;
  const int lane = threadIdx.x & 31, row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  T* data = reinterpret_cast<T*>(bytes);
  const Rows q{data}, dout{data + kRows * kDepth};
  T* columns = data + 2 * kRows * kDepth;  // k, v, k, v
  const Band band = bandOf(args);
  const int lastQuery = min(first + kRows, args.queries) - 1;
  const Range range = keysOf(args, band, first, lastQuery + 1);
  const int end = range.last > range.first ? (range.last + kColumns - 1) / kColumns : 0;
  const int* own = rangesOf(args.queryRanges, at.batch, args.queries);
  const SegmentFilter filter(rangesOf(args.keyRanges, at.batch, args.keys),
                             own ? own + first / kAttentionRange * 2 : nullptr,
                             (lastQuery - first) / kAttentionRange + 1);
  const float scale = static_cast<float>(args.scale) * kLog2OfE;
  const long long head = static_cast<long long>(at.batch) * args.heads + at.head;
  float lse[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first + row + half * 8 + lane / 4;
    const bool there = query < args.queries;
    const float of = there ? args.lse[head * args.queries + query] : lowest<float>();
    lse[half] = of == lowest<float>() ? -lowest<float>() : of * kLog2OfE;
    delta[half] = there ? static_cast<const float*>(args.delta)[head * args.queries + query] : 0.0f;
  }

  float dq[kDepth / 8][4];
  clear(dq);
  const auto loadColumns = [&](int place, int tile) {
    Rows{columns + place * 2 * kTile}.template load<kColumns, kThreads>(
        rowsOf<T>(args.k, at.batch, group), args.k.row, tile * kColumns, args.keys);
    Rows{columns + (place * 2 + 1) * kTile}.template load<kColumns, kThreads>(
        rowsOf<T>(args.v, at.batch, group), args.v.row, tile * kColumns, args.keys);
  };
  int tile = filter.template next<kColumns>(range.first / kColumns, end), place = 0;
  q.template load<kRows, kThreads>(rowsOf<T>(args.q, at.batch, at.head), args.q.row, first, args.queries);
  dout.template load<kRows, kThreads>(rowsOf<T>(args.dout, at.batch, at.head), args.dout.row, first,
                                      args.queries);
  if (tile < end) loadColumns(0, tile);
  commitCopies();
  while (tile < end) {
    const int key = tile * kColumns;
    tile = filter.template next<kColumns>(tile + 1, end);
    waitCopies<0>();
    __syncthreads();  // this tile is here, and the one before it was used
    if (tile < end) loadColumns(1 - place, tile);
    commitCopies();
    const Rows k{columns + place * 2 * kTile}, v{columns + (place * 2 + 1) * kTile};
#pragma unroll 1
    for (int across = 0; across < kColumns; across += kAcross) {
      const bool whole = allSee(args, band, first, kRows, key + across, kAcross);
      float s[kAcross / 8][4], ds[kAcross / 8][4];
      B::dots(s, q, row, k, across);
      B::dots(ds, dout, row, v, across);
#pragma unroll
      for (int n = 0; n < kAcross / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) s[n][c] = exp2Fast(__fmaf_rn(s[n][c], scale, -lse[c / 2]));
      if (!whole)
        hideUnseen<true>(s, 0, args, band, at.batch, first + row + lane / 4, key + across + lane % 4 * 2);
#pragma unroll
      for (int n = 0; n < kAcross / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) s[n][c] *= ds[n][c] - delta[c / 2];
      B::add(dq, s, k, across);
    }
    place = 1 - place;
  }
  waitCopies<0>();
  __syncthreads();
  const float factor = static_cast<float>(args.scale);
  q.store(dq, factor, factor, computedAnew(row), rowsOf<T>(args.dq, at.batch, at.head) + first * args.dq.row,
          args.dq.row, args.queries - first);
}

}  // namespace

/// dq of its sums, four elements to a thread.
template <class T>
LAZULI_DEVICE void roundQueries(const AttentionArgs& args) {
  const long long at = (static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at >= static_cast<long long>(args.batch) * args.heads * args.queries * args.depth) return;
  const float4 sums = *reinterpret_cast<const float4*>(args.dqSums + at);
  const float scale = static_cast<float>(args.scale);
  const Divided column = divide(at, args.depth), row = divide(column.quotient, args.queries);
  const int head = static_cast<int>(row.quotient);
  *reinterpret_cast<uint2*>(rowsOf<T>(args.dq, head / args.heads, head % args.heads) +
                            row.rest * args.dq.row + column.rest) =
      make_uint2(packPair<T>(sums.x * scale, sums.y * scale), packPair<T>(sums.z * scale, sums.w * scale));
}
LAZULI_KERNEL(lazuli_attention_round_bf16, AttentionArgs, kThreads) { roundQueries<BFloat16>(args); }
LAZULI_KERNEL(lazuli_attention_round_f16, AttentionArgs, kThreads) { roundQueries<Float16>(args); }

#define LAZULI_ATTENTION_BACKWARD(suffix, T, depth)                                  \
  LAZULI_KERNEL(lazuli_attention_dkv_##depth##_##suffix, AttentionArgs, kThreads) {  \
    LAZULI_DYNAMIC_SHARED(bytes);                                                    \
    keyGradients<T, depth, false>(args, bytes);                                      \
  }                                                                                  \
  LAZULI_KERNEL(lazuli_attention_dqkv_##depth##_##suffix, AttentionArgs, kThreads) { \
    LAZULI_DYNAMIC_SHARED(bytes);                                                    \
    keyGradients<T, depth, true>(args, bytes);                                       \
  }                                                                                  \
  LAZULI_KERNEL(lazuli_attention_dq_##depth##_##suffix, AttentionArgs, kThreads) {   \
    LAZULI_DYNAMIC_SHARED(bytes);                                                    \
    queryGradients<T, depth>(args, bytes);                                           \
  }
#define LAZULI_ATTENTION_BACKWARDS(depth)          \
  LAZULI_ATTENTION_BACKWARD(bf16, BFloat16, depth) \
  LAZULI_ATTENTION_BACKWARD(f16, Float16, depth)
LAZULI_ATTENTION_BACKWARDS(64)
LAZULI_ATTENTION_BACKWARDS(96)
LAZULI_ATTENTION_BACKWARDS(128)

}  // namespace lazuli::cuda
