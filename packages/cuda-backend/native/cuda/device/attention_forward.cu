// FlashAttention-2 (Dao, https://arxiv.org/abs/2307.08691) on tensor cores by mma.sync: a block has 128
// queries of a head and goes over the keys that they see, 64 or 32 at a time.

#include "attention_tiles.h"

namespace lazuli::cuda {
namespace {

constexpr int kRows = 128, kThreads = 128, kWarpRows = 32;

template <class T, int kDepth>
struct Forward {
  using Keys = Tile<T, kDepth>;
  static constexpr int kHalves = kWarpRows / 16;
  static constexpr int kKeys = kDepth > 64 ? 32 : 64;  // as many as there are registers for

  float out[kHalves][kDepth / 8][4];
  float top[kHalves][2], sum[kHalves][2];  // of rows g and g + 8; the sum is of this thread's columns

  LAZULI_DEVICE void scores(float (&s)[kHalves][kKeys / 8][4], const Keys& q, const Keys& k, int row) const {
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) s[h][n][0] = s[h][n][1] = s[h][n][2] = s[h][n][3] = 0;
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t a[kHalves][4];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) q.left(a[h], row + h * 16, step);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        k.rightRows(b, n * 16, step);
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          multiplyAdd<T>(s[h][2 * n], a[h], b[0], b[1]);
          multiplyAdd<T>(s[h][2 * n + 1], a[h], b[2], b[3]);
        }
      }
    }
  }

  /// Scores become weights, relative to the highest score so far.
  LAZULI_DEVICE void weights(float (&s)[kHalves][kKeys / 8][4], float scale) {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = top[h][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
          highest = fmaxf(highest, fmaxf(s[h][n][2 * half], s[h][n][2 * half + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float base = highest == lowest<float>() ? 0.0f : highest * scale;
        const float kept = exp2Fast(__fmaf_rn(top[h][half], scale, -base));
        top[h][half] = highest;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int c = 2 * half; c < 2 * half + 2; ++c)
            added += s[h][n][c] = exp2Fast(__fmaf_rn(s[h][n][c], scale, -base));
        }
        sum[h][half] = __fmaf_rn(sum[h][half], kept, added);
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) out[h][n][2 * half] *= kept, out[h][n][2 * half + 1] *= kept;
      }
    }
  }

  LAZULI_DEVICE void addValues(const float (&s)[kHalves][kKeys / 8][4], const Keys& v) {
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[kHalves][4];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) packLeft<T>(a[h], s[h], step);
#pragma unroll
      for (int n = 0; n < kDepth / 16; ++n) {
        uint32_t b[4];
        v.right(b, step * 16, n);
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          multiplyAdd<T>(out[h][2 * n], a[h], b[0], b[1]);
          multiplyAdd<T>(out[h][2 * n + 1], a[h], b[2], b[3]);
        }
      }
    }
  }

  LAZULI_DEVICE void run(const AttentionArgs& args, unsigned char* bytes) {
    const HeadTile at = headTileOf(args.queries, kRows, args.heads, true);
    const int group = at.head / (args.heads / args.groups), first = at.tile * kRows;
    const int lane = threadIdx.x & 31, row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    const Keys q{reinterpret_cast<T*>(bytes)}, k{q.data + kRows * kDepth}, v{k.data + kKeys * kDepth};
    const T* keyRows = rowsOf<T>(args.k, at.batch, group);
    const T* valueRows = rowsOf<T>(args.v, at.batch, group);
    const Band band = bandOf(args);
    const int lastQuery = min(first + kRows, args.queries) - 1;
    const Range keys = keysOf(args, band, first, lastQuery + 1);
    const int end = keys.last > keys.first ? (keys.last + kKeys - 1) / kKeys : 0;
    const int* own = rangesOf(args.queryRanges, at.batch, args.queries);
    const SegmentFilter filter(rangesOf(args.keyRanges, at.batch, args.keys),
                               own ? own + first / kAttentionRange * 2 : nullptr,
                               (lastQuery - first) / kAttentionRange + 1);
    const float scale = static_cast<float>(args.scale) * kLog2OfE;

#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      top[h][0] = top[h][1] = lowest<float>();
      sum[h][0] = sum[h][1] = 0;
#pragma unroll
      for (int n = 0; n < kDepth / 8; ++n) out[h][n][0] = out[h][n][1] = out[h][n][2] = out[h][n][3] = 0;
    }
    int tile = filter.template next<kKeys>(keys.first / kKeys, end);
    q.template load<kRows, kThreads>(rowsOf<T>(args.q, at.batch, at.head), args.q.row, first, args.queries);
    if (tile < end) k.template load<kKeys, kThreads>(keyRows, args.k.row, tile * kKeys, args.keys);
    commitCopies();
    while (tile < end) {
      const int key = tile * kKeys;
      waitCopies<0>();
      __syncthreads();  // the keys are here, and the values before them were used
      v.template load<kKeys, kThreads>(valueRows, args.v.row, key, args.keys);
      commitCopies();
      float s[kHalves][kKeys / 8][4];
      scores(s, q, k, row);
      tile = filter.template next<kKeys>(tile + 1, end);
      waitCopies<0>();
      __syncthreads();  // the values are here, and the keys were used
      if (tile < end) k.template load<kKeys, kThreads>(keyRows, args.k.row, tile * kKeys, args.keys);
      commitCopies();
      const bool allSeen = lastQuery + band.begin <= key && key + kKeys - 1 < first + band.end &&
                           key + kKeys <= args.keys && !args.keySegments;
      if (!allSeen) {
#pragma unroll
        for (int h = 0; h < kHalves; ++h)
          hideUnseen<true>(s[h], lowest<float>(), args, band, at.batch, first + row + h * 16 + lane / 4,
                           key + lane % 4 * 2);
      }
      weights(s, scale);
      addValues(s, v);
    }
    waitCopies<0>();
    __syncthreads();

    const long long head = static_cast<long long>(at.batch) * args.heads + at.head;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      float each[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float all = sum[h][half];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        each[half] = all == 0 ? 0.0f : 1 / all;
        const int query = first + row + h * 16 + half * 8 + lane / 4;
        if (lane % 4 == 0 && query < args.queries)
          args.lse[head * args.queries + query] =
              all == 0 ? lowest<float>() : __fmaf_rn(top[h][half], scale, log2f(all)) * kLogOf2;
      }
      q.store(out[h], each[0], each[1], row + h * 16,
              rowsOf<T>(args.result, at.batch, at.head) + first * args.result.row, args.result.row,
              args.queries - first);
    }
  }
};

/// The lowest and highest segment of every kAttentionRange rows: a warp for each.
LAZULI_DEVICE void ranges(const int* segments, int* to, int batch, int rows) {
  const int perBatch = (rows + kAttentionRange - 1) / kAttentionRange;
  const int at = static_cast<int>(blockIdx.x) * 4 + static_cast<int>(threadIdx.x) / 32;
  if (at >= batch * perBatch) return;
  const int first = at % perBatch * kAttentionRange, lane = threadIdx.x & 31;
  const int* row = segments + static_cast<long long>(at / perBatch) * rows;
  int low = row[first], high = low;
  for (int i = first + lane; i < min(first + kAttentionRange, rows); i += 32)
    low = min(low, row[i]), high = max(high, row[i]);
  low = __reduce_min_sync(0xffffffffu, low);
  high = __reduce_max_sync(0xffffffffu, high);
  if (lane == 0) to[2 * at] = low, to[2 * at + 1] = high;
}

}  // namespace

LAZULI_KERNEL(lazuli_attention_ranges, AttentionArgs, 128) {
  if (blockIdx.y == 0)
    ranges(args.querySegments, args.queryRanges, args.batch, args.queries);
  else
    ranges(args.keySegments, args.keyRanges, args.batch, args.keys);
}

#define LAZULI_ATTENTION_FORWARD(suffix, T, depth)                              \
  LAZULI_KERNEL(lazuli_attention_##depth##_##suffix, AttentionArgs, kThreads) { \
    LAZULI_DYNAMIC_SHARED(bytes);                                               \
    Forward<T, depth> forward;                                                  \
    forward.run(args, bytes);                                                   \
  }
#define LAZULI_ATTENTION_FORWARDS(depth)          \
  LAZULI_ATTENTION_FORWARD(bf16, BFloat16, depth) \
  LAZULI_ATTENTION_FORWARD(f16, Float16, depth)
LAZULI_ATTENTION_FORWARDS(64)
LAZULI_ATTENTION_FORWARDS(96)
LAZULI_ATTENTION_FORWARDS(128)

}  // namespace lazuli::cuda
