#include "kernels/attention.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// Attention without the matrix of scores, after Dao et al., "FlashAttention" (2022), with the online softmax
// of Milakov and Gimelshein (2018). Scores are held transposed, [key][query]: a query is a lane, so that the
// softmax needs no sums across lanes, and the same memory is the left operand of P · V, whose register tile
// broadcasts it. Scores are in units of log2.

namespace lazuli::LAZULI_ISA {

#include "kernels/attention_vector.h"
// After it.
#include "kernels/attention_bias.h"

namespace {

template <class T, class S>
void packKeyBlock(const AttentionShape& s, const S* k, int64_t kRow, const S* v, int64_t vRow, int64_t count,
                  T* keys, T* values) {
  packScored<T>(keys, k, kRow, count, s.depth, kBlock, T(1));
  packRows<T>(values, attentionPadded(s.valueDepth), v, vRow, count, s.valueDepth,
              attentionPadded(s.valueDepth));
}

/// State of the softmax by query: the highest score so far, the sum of 2^(score - highest), and what the sums
/// before the latest block are worth now.
template <class T>
struct Softmax {
  T highest[kBlock], sum[kBlock], rescale[kBlock];
};

/// Scores of `keys` keys become 2^(score - highest), for `vectors` vectors of queries.
template <class T, int vectors>
LAZULI_INLINE void softmaxLanes(T* scores, int64_t keys, T* highest, T* sum, T* rescale) {
  constexpr int width = Simd<T>::width;
  Vec<T> top[vectors], total[vectors] = {}, base[vectors];
  LAZULI_UNROLL
  for (int v = 0; v < vectors; v++) top[v] = load(highest + v * width);
  for (int64_t j = 0; j < keys; j++) LAZULI_UNROLL
  for (int v = 0; v < vectors; v++) {
    const Vec<T> x = load(scores + j * kBlock + v * width);
    top[v] = x > top[v] ? x : top[v];
  }
  LAZULI_UNROLL
  for (int v = 0; v < vectors; v++) {
    // Where nothing was seen yet, scores are -inf, and -inf - 0 gives the weight 0 that -inf - -inf would
    // not.
    base[v] = top[v] == T(-__builtin_inf()) ? Vec<T>{} : top[v];
    const Vec<T> factor = exp2(load(highest + v * width) - base[v]);
    store(rescale + v * width, factor);
    store(highest + v * width, top[v]);
    total[v] = load(sum + v * width) * factor;
  }
  for (int64_t j = 0; j < keys; j++) LAZULI_UNROLL
  for (int v = 0; v < vectors; v++) {
    T* at = scores + j * kBlock + v * width;
    const Vec<T> p = exp2(load(at) - base[v]);
    store(at, p);
    total[v] += p;
  }
  LAZULI_UNROLL
  for (int v = 0; v < vectors; v++) store(sum + v * width, total[v]);
}

template <class T>
void softmaxBlock(T* scores, int64_t keys, int64_t lanes, Softmax<T>& state) {
  constexpr int64_t width = Simd<T>::width;
  int64_t q = 0;
  for (; q + 4 * width <= lanes; q += 4 * width)
    softmaxLanes<T, 4>(scores + q, keys, state.highest + q, state.sum + q, state.rescale + q);
  for (; q < lanes; q += width)
    softmaxLanes<T, 1>(scores + q, keys, state.highest + q, state.sum + q, state.rescale + q);
}

/// Key j is hidden from queries below j + shift.
template <class T>
void maskBlock(T* scores, int64_t keys, int64_t laneCount, int64_t shift) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t j = most(0, 1 - shift); j < keys; j++)
    for (int64_t q = 0; q < least(laneCount, j + shift); q += width) {
      T* at = scores + j * kBlock + q;
      store(at, lanes<T>(q - (j + shift)) < 0 ? splat(T(-__builtin_inf())) : load(at));
    }
}

/// Key j is hidden from queries from j + shift on.
template <class T>
void maskBefore(T* scores, int64_t keys, int64_t laneCount, int64_t shift) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t j = 0; j < least(keys, laneCount - shift); j++)
    for (int64_t q = most(0, j + shift) / width * width; q < laneCount; q += width) {
      T* at = scores + j * kBlock + q;
      store(at, lanes<T>(q - (j + shift)) < 0 ? load(at) : splat(T(-__builtin_inf())));
    }
}

/// Keys are hidden from queries of other segments.
template <class T>
void maskSegments(T* scores, int64_t keys, int64_t laneCount, const SegmentLanes<T>& queries,
                  const int32_t* keySegments) {
  for (int64_t j = 0; j < keys; j++) {
    const typename Simd<T>::Mask key = typename Simd<T>::Mask{} + keySegments[j];
    for (int64_t q = 0; q < laneCount; q += Simd<T>::width) {
      T* at = scores + j * kBlock + q;
      store(at, queries.at(q) == key ? load(at) : splat(T(-__builtin_inf())));
    }
  }
}

template <class T, class S>
void forwardBlock(const AttentionShape& s, const AttentionBlock& b) {
  const int64_t valueCols = attentionPadded(s.valueDepth), laneCount = attentionPadded(b.count);
  T* q = reinterpret_cast<T*>(b.scratch);
  T* scores = q + s.depth * kBlock;
  T* out = scores + kBlock * kBlock;
  Softmax<T> state;
  for (int64_t i = 0; i < kBlock; i++) {
    state.highest[i] = T(-__builtin_inf());
    state.sum[i] = 0;
  }
  const T scale = static_cast<T>(s.scale * kLog2E);
  packScored<T>(q, static_cast<const S*>(b.q), b.qRow, b.count, s.depth, laneCount, scale);

  const int64_t seen = s.causal ? most(0, least(s.keys, b.first + b.count + s.offset)) : s.keys;
  const int64_t begin = s.window > 0 ? most(0, b.first + s.offset + 1 - s.window) / kBlock * kBlock : 0;
  SegmentLanes<T> segments;
  if (b.querySegments) segments.set(b.querySegments, b.count);
  bool isFirst = true;
  for (int64_t j0 = begin; j0 < seen; j0 += kBlock) {
    bool mixed = false;
    if (b.querySegments) {
      const SegmentRange own(b.querySegments, b.count), other(b.keySegments + j0, least(kBlock, seen - j0));
      if (own.isApart(other)) continue;
      mixed = !own.isOne(other);
    }
    const AttentionBias bias = attentionBiasFrom(b.bias, 0, j0);
    if (hidesAll(bias, b.count, least(kBlock, seen - j0))) continue;
    const T* keys = static_cast<const T*>(b.keys) + j0 * s.depth;
    const T* values = static_cast<const T*>(b.values) + j0 * valueCols;
    const int64_t count = least(kBlock, seen - j0);
    score<T, S>((count + 7) / 8 * 8, laneCount, s.depth, keys, q, scores, scale);
    if (bias.data)
      withBiasType<T>(bias.dtype, [&](auto* type) {
        addBiasByKey(scores, bias, reinterpret_cast<decltype(type)>(bias.data), b.count, laneCount, count);
      });
    const int64_t shift = j0 - b.first - s.offset;
    if (s.causal && count - 1 + shift > 0) maskBlock(scores, count, laneCount, shift);
    if (s.window > 0 && shift + s.window < b.count) maskBefore(scores, count, laneCount, shift + s.window);
    if (mixed) maskSegments(scores, count, laneCount, segments, b.keySegments + j0);
    softmaxBlock(scores, count, laneCount, state);
    if (isFirst) {
      isFirst = false;
      product<T, true, false>(laneCount, valueCols, count, scores, kBlock, values, valueCols, out, valueCols);
      continue;
    }
    for (int64_t i = 0; i < b.count; i++) {
      const T factor = state.rescale[i];
      if (factor == T(1)) continue;
      for (int64_t c = 0; c < valueCols; c += Simd<T>::width) {
        T* at = out + i * valueCols + c;
        store(at, load(at) * factor);
      }
    }
    product<T, true, true>(laneCount, valueCols, count, scores, kBlock, values, valueCols, out, valueCols);
  }

  S* to = static_cast<S*>(b.out);
  for (int64_t i = 0; i < b.count; i++) {
    if (isFirst || state.sum[i] == 0) {
      __builtin_memset(static_cast<void*>(to + i * s.valueDepth), 0,
                       static_cast<size_t>(s.valueDepth) * sizeof(S));
      b.lse[i] = -__builtin_inff();
    } else {
      storeRow(to + i * s.valueDepth, out + i * valueCols, T(1) / state.sum[i], s.valueDepth);
      b.lse[i] = static_cast<float>(kLn2 * (state.highest[i] + __builtin_log2(state.sum[i])));
    }
  }
}

void packKeys(const AttentionShape& s, const void* k, int64_t kRow, const void* v, int64_t vRow,
              int64_t count, void* keys, void* values) {
  withTypes(s.dtype, [&](auto* storage, auto zero) {
    using S = decltype(storage);
    using T = decltype(zero);
    packKeyBlock(s, static_cast<S>(k), kRow, static_cast<S>(v), vRow, count, static_cast<T*>(keys),
                 static_cast<T*>(values));
  });
}

size_t forwardScratch(const AttentionShape& s) {
  const int64_t items = kBlock * (s.depth + kBlock + attentionPadded(s.valueDepth));
  return static_cast<size_t>(items) * attentionWorkBytes(s.dtype);
}

template <class T, class S>
void forwardTyped(const AttentionShape& s, const AttentionBlock& block, const S*, T) {
  forwardBlock<T, S>(s, block);
}

void forward(const AttentionShape& s, const AttentionBlock& block) {
  withTypes(s.dtype, [&](auto* storage, auto zero) { forwardTyped(s, block, storage, zero); });
}

}  // namespace

const AttentionTable& attention() {
  static constexpr AttentionTable table{packKeys,      forwardScratch,      forward, attentionGradScratch,
                                        attentionGrad, attentionGradQueries};
  return table;
}

}  // namespace lazuli::LAZULI_ISA
