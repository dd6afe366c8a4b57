// The gradient of FlashAttention for Hopper, by wgmma and bulk copies. As in attention_backward.cu two
// kernels each own what they sum, so that nothing is added in an order that may differ: one has 128 keys of a
// group and goes over all queries of the group's heads (dk, dv), one 128 queries of a head and goes over
// their keys (dq). The weights stay in registers: they are computed with the rows that a block owns as their
// rows, and so are the left operands of the products that follow. Or the first adds up dq too, in the GPU's
// memory: for that the gradients of the scores go through shared memory, and are read across.

#include "attention_sm90.h"

namespace lazuli::cuda {
namespace {

constexpr int kAcross = 64, kStages = 2;  // rows of the other side at a time

/// Of a block: 128 rows of two operands, which stay, and places for tiles of two others.
template <class T, int kDepth>
struct Places {
  using Rows = Slabs<T, kDepth, kGroupRows>;
  using Tiles = Slabs<T, kDepth, kAcross>;

  unsigned char *own, *tiles;
  unsigned char* changes;  // of the scores, as [key, query] of each warpgroup; where dq is added up
  float* numbers;          // two for each row of a tile
  Barrier* ownFull;
  Ring<kStages> ring;

  LAZULI_DEVICE Places(unsigned char* bytes, bool addsQueries)
      : own(bytes), tiles(bytes + 4 * Rows::kBytes), changes(tiles + 2 * kStages * Tiles::kBytes) {
    numbers = reinterpret_cast<float*>(changes + (addsQueries ? kAttentionChangeBytes : 0));
    ownFull = reinterpret_cast<Barrier*>(numbers + 2 * kStages * kAcross);
    ring = {ownFull + 1, ownFull + 1 + kStages};
  }
  /// Operand 0 or 1.
  LAZULI_DEVICE Rows rows(int operand, int group) const {
    return {own + (operand * 2 + group) * Rows::kBytes};
  }
  LAZULI_DEVICE Tiles tile(int operand, int index) const {
    return {tiles + (ring.place(index) * 2 + operand) * Tiles::kBytes};
  }
  LAZULI_DEVICE float* number(int which, int index) const {
    return numbers + (ring.place(index) * 2 + which) * kAcross;
  }

  LAZULI_DEVICE void loadOwn(const TensorMap& first, const TensorMap& second, int row, int head,
                             int batch) const {
    prefetchMap(first);
    prefetchMap(second);
    arriveExpecting(ownFull, 4 * Rows::kBytes);
    for (int group = 0; group < 2; ++group) {
      rows(0, group).load(first, ownFull, row + group * kGroupRows, head, batch);
      rows(1, group).load(second, ownFull, row + group * kGroupRows, head, batch);
    }
  }
  LAZULI_DEVICE void loadTile(const TensorMap& first, const TensorMap& second, int index, int row, int head,
                              int batch) const {
    arriveExpecting(ring.filled(index), 2 * Tiles::kBytes);
    tile(0, index).load(first, ring.filled(index), row, head, batch);
    tile(1, index).load(second, ring.filled(index), row, head, batch);
  }
  LAZULI_DEVICE void init() const {
    if (threadIdx.x == 0) {
      initBarrier(ownFull, 1);
      ring.init();
      publishBarriers();
    }
    __syncthreads();
  }
};

/// By what a query's weights are scaled down; a row that sees nothing has weights 2^-inf.
LAZULI_DEVICE float exponentOf(float lse) {
  return lse == lowest<float>() ? -lowest<float>() : lse * kLog2OfE;
}

/// Whether the queries and keys of these tiles all see each other.
LAZULI_DEVICE bool allSee(const AttentionArgs& args, const Band& band, int query, int key) {
  return query + kGroupRows <= args.queries && key + kGroupRows <= args.keys &&
         query + kGroupRows - 1 + band.begin <= key && key + kGroupRows - 1 < query + band.end &&
         !args.querySegments;
}
static_assert(kAcross == kGroupRows);

/// A thread's first row of its warpgroup's 64, and its first column.
LAZULI_DEVICE int rowOfThread() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}
LAZULI_DEVICE int columnOfThread() { return static_cast<int>(threadIdx.x) % 4 * 2; }

// ---- dk and dv: rows are keys, columns queries.

struct KeyWork {
  const AttentionArgs& args;
  HeadTile at;
  int first, begin, end;
  Band band;
  SegmentFilter filter;

  LAZULI_DEVICE static const int* ownRanges(const AttentionArgs& args, const HeadTile& at) {
    const int* own = rangesOf(args.keyRanges, at.batch, args.keys);
    return own ? own + at.tile * (kRows / kAttentionRange) * 2 : nullptr;
  }
  LAZULI_DEVICE explicit KeyWork(const AttentionArgs& args)
      : args(args),
        at(headTileOf(args.keys, kRows, args.groups, false)),
        first(at.tile * kRows),
        band(bandOf(args)),
        filter(rangesOf(args.queryRanges, at.batch, args.queries), ownRanges(args, at),
               (min(first + kRows, args.keys) - 1 - first) / kAttentionRange + 1) {
    const Range range = queriesOf(args, band, first, min(first + kRows, args.keys));
    end = range.last > range.first ? (range.last + kAcross - 1) / kAcross : 0;
    begin = filter.template next<kAcross>(range.first / kAcross, end);
  }
  /// Calls `work(index, head, tile)` for every tile of queries of the group's heads.
  template <class Work>
  LAZULI_DEVICE void each(const Work& work) const {
    const int heads = args.heads / args.groups;
    int index = 0;
    for (int head = at.head * heads; head < (at.head + 1) * heads; ++head)
      for (int tile = begin; tile < end; tile = filter.template next<kAcross>(tile + 1, end))
        work(index++, head, tile);
  }
};

template <class T, int kDepth>
LAZULI_DEVICE void loadQueries(const AttentionBulkArgs& args, const Places<T, kDepth>& places,
                               const KeyWork& keys) {
  const int lane = threadIdx.x & 31;
  if (lane == 0) places.loadOwn(args.k, args.v, keys.first, keys.at.head, keys.at.batch);
  keys.each([&](int index, int head, int tile) {
    places.ring.awaitEmpty(index);
    const long long row =
        (static_cast<long long>(keys.at.batch) * keys.args.heads + head) * keys.args.queries;
#pragma unroll
    for (int i = 0; i < kAcross / 32; ++i) {
      const int query = tile * kAcross + i * 32 + lane;
      const bool there = query < keys.args.queries;
      places.number(0, index)[i * 32 + lane] =
          exponentOf(there ? keys.args.lse[row + query] : lowest<float>());
      places.number(1, index)[i * 32 + lane] =
          there ? static_cast<const float*>(keys.args.delta)[row + query] : 0.0f;
    }
    __syncwarp();
    if (lane == 0) places.loadTile(args.q, args.dout, index, tile * kAcross, head, keys.at.batch);
  });
}

/// Adds 64 keys' part of dq's of 64 queries, columns from `column` on.
template <int kTiles>
LAZULI_DEVICE void addQueryGradients(const AttentionArgs& args, const float (&sums)[kTiles][4],
                                     long long head, int query, int column) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = computedAnew(query + rowOfThread() + half * 8);
    if (row >= args.queries) continue;
    float* to = args.dqSums + (head * args.queries + row) * args.depth + column + columnOfThread();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) addPair(to + n * 8, sums[n][2 * half], sums[n][2 * half + 1]);
  }
}

template <class T, int kDepth, bool kAddsQueries>
LAZULI_DEVICE void keyGradients(const Places<T, kDepth>& places, const KeyWork& keys, int group) {
  const AttentionArgs& args = keys.args;
  const auto k = places.rows(0, group), v = places.rows(1, group);
  const int first = keys.first + group * kGroupRows;
  const float scale = static_cast<float>(args.scale) * kLog2OfE;
  float dk[kDepth / 8][4], dv[kDepth / 8][4];
  clear(dk);
  clear(dv);
  waitFor(places.ownFull, 0);
  keys.each([&](int index, [[maybe_unused]] int head, int tile) {
    const auto q = places.tile(0, index), dout = places.tile(1, index);
    float s[kAcross / 8][4], ds[kAcross / 8][4];
    uint32_t weights[kAcross / 16][4];
    places.ring.awaitFull(index);
    beginProducts();
    dots<T, kDepth, kAcross>(s, k, q);
    endProducts();
    dots<T, kDepth, kAcross>(ds, v, dout);
    endProducts();
    awaitProducts<1>(s);
    const bool whole = allSee(args, keys.band, tile * kAcross, first);
#pragma unroll
    for (int n = 0; n < kAcross / 8; ++n) {
      const float2 exponents =
          *reinterpret_cast<const float2*>(places.number(0, index) + n * 8 + columnOfThread());
#pragma unroll
      for (int c = 0; c < 4; ++c)
        s[n][c] = exp2Fast(__fmaf_rn(s[n][c], scale, -(c % 2 ? exponents.y : exponents.x)));
    }
    if (!whole)
      hideUnseen<false>(s, 0, args, keys.band, keys.at.batch, computedAnew(first + rowOfThread()),
                        computedAnew(tile * kAcross + columnOfThread()));
    packWeights<T>(weights, s);
    awaitProducts<0>(ds);
    beginProducts();
    addRows<T, kDepth, kAcross>(dv, weights, dout);
    endProducts();
#pragma unroll
    for (int n = 0; n < kAcross / 8; ++n) {
      const float2 deltas =
          *reinterpret_cast<const float2*>(places.number(1, index) + n * 8 + columnOfThread());
#pragma unroll
      for (int c = 0; c < 4; ++c) ds[n][c] = s[n][c] * (ds[n][c] - (c % 2 ? deltas.y : deltas.x));
    }
    uint32_t changes[kAcross / 16][4];
    packWeights<T>(changes, ds);
    beginProducts();
    addRows<T, kDepth, kAcross>(dk, changes, q);
    endProducts();
    if constexpr (!kAddsQueries) {
      awaitProducts<0>(dv, dk);
      places.ring.release(index);
    } else {
      // As Tile permutes rows of 64 elements, so does swizzling by 128 bytes.
      const Tile<T, kAcross> across{
          reinterpret_cast<T*>(places.changes + computedAnew(group) * (kAttentionChangeBytes / 2))};
      meetGroup(computedAnew(group));  // what was there was used
      across.put(ds, computedAnew(static_cast<int>(threadIdx.x) % 128 / 32 * 16), 0);
      publishStores();
      awaitProducts<0>(dv, dk);
      places.ring.release(index);
      meetGroup(group);
      // As many columns at a time as there are registers for.
      constexpr int kColumns = kDepth > 96 ? kDepth / 2 : kDepth;
#pragma unroll
      for (int column = 0; column < kDepth; column += kColumns) {
        float dq[kColumns / 8][4];
        beginProducts();
#pragma unroll
        for (int step = 0; step < kGroupRows / 16; ++step)
          multiplyShared<T, true, true>(
              dq, matrixAt<128>(across.data + step * 16 * kAcross, kAttentionChangeBytes / 2, 1024),
              k.across(step, column), step > 0);
        endProducts();
        awaitProducts<0>(dq);
        addQueryGradients(args, dq, static_cast<long long>(keys.at.batch) * args.heads + head, tile * kAcross,
                          column);
      }
    }
  });
  meetGroup(group);
  const float factor = static_cast<float>(args.scale);
  const HeadTile& at = keys.at;
  storeRows<T, kDepth>(dk, factor, factor, k.data,
                       rowsOf<T>(args.dk, at.batch, at.head) + first * args.dk.row, args.dk.row,
                       args.keys - first);
  storeRows<T, kDepth>(dv, 1, 1, v.data, rowsOf<T>(args.dv, at.batch, at.head) + first * args.dv.row,
                       args.dv.row, args.keys - first);
}

// ---- dq: rows are queries, columns keys.

struct QueryWork {
  const AttentionArgs& args;
  HeadTile at;
  int group, first, begin, end;
  Band band;
  SegmentFilter filter;

  LAZULI_DEVICE static const int* ownRanges(const AttentionArgs& args, const HeadTile& at) {
    const int* own = rangesOf(args.queryRanges, at.batch, args.queries);
    return own ? own + at.tile * (kRows / kAttentionRange) * 2 : nullptr;
  }
  LAZULI_DEVICE explicit QueryWork(const AttentionArgs& args)
      : args(args),
        at(headTileOf(args.queries, kRows, args.heads, true)),
        group(at.head / (args.heads / args.groups)),
        first(at.tile * kRows),
        band(bandOf(args)),
        filter(rangesOf(args.keyRanges, at.batch, args.keys), ownRanges(args, at),
               (min(first + kRows, args.queries) - 1 - first) / kAttentionRange + 1) {
    const Range range = keysOf(args, band, first, min(first + kRows, args.queries));
    end = range.last > range.first ? (range.last + kAcross - 1) / kAcross : 0;
    begin = filter.template next<kAcross>(range.first / kAcross, end);
  }
  template <class Work>
  LAZULI_DEVICE void each(const Work& work) const {
    int index = 0;
    for (int tile = begin; tile < end; tile = filter.template next<kAcross>(tile + 1, end))
      work(index++, tile);
  }
};

template <class T, int kDepth>
LAZULI_DEVICE void loadKeys(const AttentionBulkArgs& args, const Places<T, kDepth>& places,
                            const QueryWork& queries) {
  if (threadIdx.x % 32 != 0) return;
  places.loadOwn(args.q, args.dout, queries.first, queries.at.head, queries.at.batch);
  queries.each([&](int index, int tile) {
    places.ring.awaitEmpty(index);
    places.loadTile(args.k, args.v, index, tile * kAcross, queries.group, queries.at.batch);
  });
}

template <class T, int kDepth>
LAZULI_DEVICE void queryGradients(const Places<T, kDepth>& places, const QueryWork& queries, int group) {
  const AttentionArgs& args = queries.args;
  const auto q = places.rows(0, group), dout = places.rows(1, group);
  const int first = queries.first + group * kGroupRows;
  const float scale = static_cast<float>(args.scale) * kLog2OfE;
  const long long head = static_cast<long long>(queries.at.batch) * args.heads + queries.at.head;
  float exponent[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first + rowOfThread() + half * 8;
    const bool there = query < args.queries;
    exponent[half] = exponentOf(there ? args.lse[head * args.queries + query] : lowest<float>());
    delta[half] = there ? static_cast<const float*>(args.delta)[head * args.queries + query] : 0.0f;
  }
  float dq[kDepth / 8][4];
  clear(dq);
  waitFor(places.ownFull, 0);
  queries.each([&](int index, int tile) {
    const auto k = places.tile(0, index), v = places.tile(1, index);
    float s[kAcross / 8][4], ds[kAcross / 8][4];
    places.ring.awaitFull(index);
    beginProducts();
    dots<T, kDepth, kAcross>(s, q, k);
    endProducts();
    dots<T, kDepth, kAcross>(ds, dout, v);
    endProducts();
    awaitProducts<1>(s);
    const bool whole = allSee(args, queries.band, first, tile * kAcross);
#pragma unroll
    for (int n = 0; n < kAcross / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) s[n][c] = exp2Fast(__fmaf_rn(s[n][c], scale, -exponent[c / 2]));
    if (!whole)
      hideUnseen<true>(s, 0, args, queries.band, queries.at.batch, first + rowOfThread(),
                       tile * kAcross + columnOfThread());
    awaitProducts<0>(ds);
#pragma unroll
    for (int n = 0; n < kAcross / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) s[n][c] *= ds[n][c] - delta[c / 2];
    uint32_t changes[kAcross / 16][4];
    packWeights<T>(changes, s);
    beginProducts();
    addRows<T, kDepth, kAcross>(dq, changes, k);
    endProducts();
    awaitProducts<0>(dq);
    places.ring.release(index);
  });
  meetGroup(group);
  const float factor = static_cast<float>(args.scale);
  const HeadTile& at = queries.at;
  storeRows<T, kDepth>(dq, factor, factor, q.data,
                       rowsOf<T>(args.dq, at.batch, at.head) + first * args.dq.row, args.dq.row,
                       args.queries - first);
}

template <class T, int kDepth, bool kAddsQueries>
LAZULI_DEVICE void runKeys(const AttentionBulkArgs& args, unsigned char* bytes) {
  const Places<T, kDepth> places(bytes, kAddsQueries);
  places.init();
  const int group = warpgroup();
  if (group == 2) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x < 256 + 32) loadQueries(args, places, KeyWork(args.call));
  } else {
    takeRegisters<kConsumerRegisters>();
    keyGradients<T, kDepth, kAddsQueries>(places, KeyWork(args.call), group);
  }
}

template <class T, int kDepth>
LAZULI_DEVICE void runQueries(const AttentionBulkArgs& args, unsigned char* bytes) {
  const Places<T, kDepth> places(bytes, false);
  places.init();
  const int group = warpgroup();
  if (group == 2) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x < 256 + 32) loadKeys(args, places, QueryWork(args.call));
  } else {
    takeRegisters<kConsumerRegisters>();
    queryGradients(places, QueryWork(args.call), group);
  }
}

}  // namespace

#define LAZULI_ATTENTION_BACKWARD(suffix, T, depth)                                                 \
  LAZULI_KERNEL_ALONE(lazuli_attention_sm90_dkv_##depth##_##suffix, AttentionBulkArgs, kThreads) {  \
    LAZULI_DYNAMIC_SHARED(bytes);                                                                   \
    runKeys<T, depth, false>(args, bytes);                                                          \
  }                                                                                                 \
  LAZULI_KERNEL_ALONE(lazuli_attention_sm90_dqkv_##depth##_##suffix, AttentionBulkArgs, kThreads) { \
    LAZULI_DYNAMIC_SHARED(bytes);                                                                   \
    runKeys<T, depth, true>(args, bytes);                                                           \
  }                                                                                                 \
  LAZULI_KERNEL_ALONE(lazuli_attention_sm90_dq_##depth##_##suffix, AttentionBulkArgs, kThreads) {   \
    LAZULI_DYNAMIC_SHARED(bytes);                                                                   \
    runQueries<T, depth>(args, bytes);                                                              \
  }
#define LAZULI_ATTENTION_BACKWARDS(depth)          \
  LAZULI_ATTENTION_BACKWARD(bf16, BFloat16, depth) \
  LAZULI_ATTENTION_BACKWARD(f16, Float16, depth)
LAZULI_ATTENTION_BACKWARDS(64)
LAZULI_ATTENTION_BACKWARDS(96)
LAZULI_ATTENTION_BACKWARDS(128)

}  // namespace lazuli::cuda
