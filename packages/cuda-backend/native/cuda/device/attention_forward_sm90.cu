// FlashAttention-3 (Shah et al. 2024, https://arxiv.org/abs/2407.08608) for Hopper: a warp has the tensor
// memory accelerator load tiles of 128 keys and values, two warpgroups have 64 queries each and multiply by
// wgmma. A warpgroup's softmax runs while its product of the tile before runs, and while the other warpgroup
// multiplies: they take turns in starting products.

#include "attention_sm90.h"

namespace lazuli::cuda {
namespace {

constexpr int kKeys = 128, kStages = 2;

template <class T, int kDepth>
struct Forward {
  using Queries = Slabs<T, kDepth, kGroupRows>;
  using Keys = Slabs<T, kDepth, kKeys>;

  struct Shared {
    unsigned char *q, *k, *v;
    Barrier* qFull;
    Ring<kStages> keys, values;

    LAZULI_DEVICE explicit Shared(unsigned char* bytes)
        : q(bytes), k(q + 2 * Queries::kBytes), v(k + kStages * Keys::kBytes) {
      qFull = reinterpret_cast<Barrier*>(v + kStages * Keys::kBytes);
      keys = {qFull + 1, qFull + 1 + kStages};
      values = {keys.empty + kStages, keys.empty + 2 * kStages};
    }
    LAZULI_DEVICE Queries queries(int group) const { return {q + group * Queries::kBytes}; }
    LAZULI_DEVICE Keys key(int index) const { return {k + keys.place(index) * Keys::kBytes}; }
    LAZULI_DEVICE Keys value(int index) const { return {v + values.place(index) * Keys::kBytes}; }
  };

  /// The block's rows and the tiles of keys that they see.
  struct Work {
    const AttentionArgs& args;
    HeadTile at;
    int group, first, lastQuery, begin, end;
    Band band;
    SegmentFilter filter;

    LAZULI_DEVICE static const int* ownRanges(const AttentionArgs& args, const HeadTile& at) {
      const int* own = rangesOf(args.queryRanges, at.batch, args.queries);
      return own ? own + at.tile * (kRows / kAttentionRange) * 2 : nullptr;
    }
    LAZULI_DEVICE explicit Work(const AttentionArgs& args)
        : args(args),
          at(headTileOf(args.queries, kRows, args.heads, true)),
          group(at.head / (args.heads / args.groups)),
          first(at.tile * kRows),
          lastQuery(min(first + kRows, args.queries) - 1),
          band(bandOf(args)),
          filter(rangesOf(args.keyRanges, at.batch, args.keys), ownRanges(args, at),
                 (lastQuery - first) / kAttentionRange + 1) {
      const Range keys = keysOf(args, band, first, lastQuery + 1);
      end = keys.last > keys.first ? (keys.last + kKeys - 1) / kKeys : 0;
      begin = next(keys.first / kKeys);
    }
    /// The first tile from `tile` on that may be seen.
    LAZULI_DEVICE int next(int tile) const { return filter.template nextOf<kKeys>(tile, end, args.keys); }
  };

  LAZULI_DEVICE static void produce(const AttentionBulkArgs& args, const Shared& shared, const Work& work) {
    const HeadTile& at = work.at;
    prefetchMap(args.q);
    prefetchMap(args.k);
    prefetchMap(args.v);
    arriveExpecting(shared.qFull, 2 * Queries::kBytes);
    for (int group = 0; group < 2; ++group)
      shared.queries(group).load(args.q, shared.qFull, work.first + group * kGroupRows, at.head, at.batch);
    int index = 0;
    for (int tile = work.begin; tile < work.end; tile = work.next(tile + 1), ++index) {
      shared.keys.awaitEmpty(index);
      arriveExpecting(shared.keys.filled(index), Keys::kBytes);
      shared.key(index).load(args.k, shared.keys.filled(index), tile * kKeys, work.group, at.batch);
      shared.values.awaitEmpty(index);
      arriveExpecting(shared.values.filled(index), Keys::kBytes);
      shared.value(index).load(args.v, shared.values.filled(index), tile * kKeys, work.group, at.batch);
    }
  }

  // Of a thread: two rows, g and g + 8 of its warp's 16.
  float out[kDepth / 8][4];
  float top[2], sum[2];  // the sum is of this thread's columns
  float s[kKeys / 8][4];
  uint32_t weights[kKeys / 16][4];

  /// Scores become weights, relative to the highest score so far; `kept`: by what earlier sums go down.
  LAZULI_DEVICE void soften(float scale, float (&kept)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = top[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      const float base = highest == lowest<float>() ? 0.0f : highest * scale;
      kept[half] = exp2Fast(__fmaf_rn(top[half], scale, -base));
      top[half] = highest;
      float added = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 2 * half; c < 2 * half + 2; ++c)
          added += s[n][c] = exp2Fast(__fmaf_rn(s[n][c], scale, -base));
      }
      sum[half] = __fmaf_rn(sum[half], kept[half], added);
    }
  }

  /// Hides what this warpgroup's rows, from `first` on, do not see of a tile.
  LAZULI_DEVICE void hide(const Work& work, int first, int tile) {
    const AttentionArgs& args = work.args;
    const int key = tile * kKeys, last = min(first + kGroupRows, args.queries) - 1;
    if (last + work.band.begin <= key && key + kKeys - 1 < first + work.band.end &&
        key + kKeys <= args.keys && !args.keySegments)
      return;
    const int lane = threadIdx.x & 31, row = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
    hideUnseen<true>(s, lowest<float>(), args, work.band, work.at.batch, first + row + lane / 4,
                     key + lane % 4 * 2);
  }

  LAZULI_DEVICE void consume(const Shared& shared, const Work& work, int group) {
    const AttentionArgs& args = work.args;
    const Queries q = shared.queries(group);
    const int first = work.first + group * kGroupRows;
    const float scale = static_cast<float>(args.scale) * kLog2OfE;
    float kept[2];
    clear(out);
    top[0] = top[1] = lowest<float>();
    sum[0] = sum[1] = 0;

    if (work.begin < work.end) {
      int tile = work.begin, index = 0;
      if (group == 1) comeTo(kTurnBarrier, 256);  // the first warpgroup begins
      waitFor(shared.qFull, 0);
      shared.keys.awaitFull(0);
      beginProducts();
      dots<T, kDepth, kKeys>(s, q, shared.key(0));
      endProducts();
      awaitProducts<0>(s);
      shared.keys.release(0);
      hide(work, first, tile);
      soften(scale, kept);
      packWeights<T>(weights, s);
      for (tile = work.next(tile + 1); tile < work.end; tile = work.next(tile + 1)) {
        // The next scores, and the values of the weights at hand; softmax runs while these are added.
        shared.keys.awaitFull(index + 1);
        meet(kTurnBarrier + group, 256);
        beginProducts();
        dots<T, kDepth, kKeys>(s, q, shared.key(index + 1));
        endProducts();
        shared.values.awaitFull(index);
        beginProducts();
        addRows<T, kDepth, kKeys>(out, weights, shared.value(index));
        endProducts();
        comeTo(kTurnBarrier + 1 - group, 256);
        awaitProducts<1>(s);
        shared.keys.release(index + 1);
        hide(work, first, tile);
        soften(scale, kept);
        awaitProducts<0>(out);
        shared.values.release(index);
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n)
#pragma unroll
          for (int c = 0; c < 4; ++c) out[n][c] *= kept[c / 2];
        packWeights<T>(weights, s);
        ++index;
      }
      if (group == 0) meet(kTurnBarrier, 256);  // the turn that the second warpgroup gave last
      shared.values.awaitFull(index);
      beginProducts();
      addRows<T, kDepth, kKeys>(out, weights, shared.value(index));
      endProducts();
      awaitProducts<0>(out);
      shared.values.release(index);
    }

    const int lane = threadIdx.x & 31, row = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
    const long long head = static_cast<long long>(work.at.batch) * args.heads + work.at.head;
    float each[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float all = sum[half];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      each[half] = all == 0 ? 0.0f : 1 / all;
      const int query = first + row + half * 8 + lane / 4;
      if (lane % 4 == 0 && query < args.queries)
        args.lse[head * args.queries + query] =
            all == 0 ? lowest<float>() : __fmaf_rn(top[half], scale, log2f(all)) * kLogOf2;
    }
    if (work.begin >= work.end) waitFor(shared.qFull, 0);  // before the queries' place is used
    meetGroup(group);
    storeRows<T, kDepth>(out, each[0], each[1], q.data,
                         rowsOf<T>(args.result, work.at.batch, work.at.head) + first * args.result.row,
                         args.result.row, args.queries - first);
  }

  LAZULI_DEVICE static void run(const AttentionBulkArgs& args, unsigned char* bytes) {
    const Shared shared(bytes);
    const int group = warpgroup();
    if (threadIdx.x == 0) {
      initBarrier(shared.qFull, 1);
      shared.keys.init();
      shared.values.init();
      publishBarriers();
    }
    __syncthreads();
    if (group == 2) {
      giveRegisters<kProducerRegisters>();
      if (threadIdx.x == 256) produce(args, shared, Work(args.call));
    } else {
      takeRegisters<kConsumerRegisters>();
      Forward forward;
      forward.consume(shared, Work(args.call), group);
    }
  }
};

}  // namespace

#define LAZULI_ATTENTION_FORWARD(suffix, T, depth)                                             \
  LAZULI_KERNEL_ALONE(lazuli_attention_sm90_##depth##_##suffix, AttentionBulkArgs, kThreads) { \
    LAZULI_DYNAMIC_SHARED(bytes);                                                              \
    Forward<T, depth>::run(args, bytes);                                                       \
  }
#define LAZULI_ATTENTION_FORWARDS(depth)          \
  LAZULI_ATTENTION_FORWARD(bf16, BFloat16, depth) \
  LAZULI_ATTENTION_FORWARD(f16, Float16, depth)
LAZULI_ATTENTION_FORWARDS(64)
LAZULI_ATTENTION_FORWARDS(96)
LAZULI_ATTENTION_FORWARDS(128)

}  // namespace lazuli::cuda
