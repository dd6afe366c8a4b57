#include "kernels/attention.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// The gradient of attention, after Dao et al., "FlashAttention" (2022): the weights are computed again from
// lse, block by block. With delta = rowsum(dout * out) - dlse:
//   P = exp(scale q·k - lse), dS = P (dout·v - delta), dv = P^T dout, dk = scale dS^T q, dq = scale dS k.
// A block of scores is held [query][key]; every product then reads its left operand as the register tile
// broadcasts it.

namespace lazuli::LAZULI_ISA {

#include "kernels/attention_vector.h"
// After it.
#include "kernels/attention_bias.h"

namespace {

/// One head's block of queries, packed; rows past the last query are zeros that give and take nothing.
template <class T>
struct QueryBlock {
  T* q;         // [depth][64], times scale * log2(e)
  T* rows;      // [64][depth padded]
  T* dout;      // [valueDepth][64]
  T* doutRows;  // [64][valueDepth padded]
  T* lse;       // [64], in units of log2
  T* delta;     // [64]

  static int64_t items(const AttentionShape& s) {
    return kBlock * (s.depth + attentionPadded(s.depth) + s.valueDepth + attentionPadded(s.valueDepth) + 2);
  }
  QueryBlock(const AttentionShape& s, T* blocks, int64_t index) {
    q = blocks + index * items(s);
    rows = q + kBlock * s.depth;
    dout = rows + kBlock * attentionPadded(s.depth);
    doutRows = dout + kBlock * s.valueDepth;
    lse = doutRows + kBlock * attentionPadded(s.valueDepth);
    delta = lse + kBlock;
  }
};

template <class T, class S>
void packQueries(const AttentionShape& s, const AttentionGradTask& t, int64_t head, int64_t first,
                 int64_t count, const QueryBlock<T>& to) {
  const S* q = static_cast<const S*>(t.q) + head * t.qHead + first * t.qRow;
  const S* out = static_cast<const S*>(t.out) + head * t.outHead + first * t.outRow;
  const S* dout = static_cast<const S*>(t.dout) + head * t.doutHead + first * t.doutRow;
  const float* lse = t.lse + head * s.queries + first;
  const float* dlse = t.dlse ? t.dlse + head * s.queries + first : nullptr;
  const int64_t cols = attentionPadded(s.depth), valueCols = attentionPadded(s.valueDepth);
  packScored<T>(to.q, q, t.qRow, count, s.depth, kBlock, static_cast<T>(s.scale * kLog2E));
  packScored<T>(to.dout, dout, t.doutRow, count, s.valueDepth, kBlock, T(1));
  packRows<T>(to.rows, cols, q, t.qRow, count, s.depth, cols);
  packRows<T>(to.doutRows, valueCols, dout, t.doutRow, count, s.valueDepth, valueCols);
  __builtin_memset(to.rows + count * cols, 0, static_cast<size_t>((kBlock - count) * cols) * sizeof(T));
  __builtin_memset(to.doutRows + count * valueCols, 0,
                   static_cast<size_t>((kBlock - count) * valueCols) * sizeof(T));
  for (int64_t i = 0; i < kBlock; i++) {
    // 2^(score - inf) = 0: a row that sees nothing, or is not there, has no weights.
    const bool empty = i >= count || lse[i] == -__builtin_inff();
    to.lse[i] = empty ? T(__builtin_inf()) : static_cast<T>(lse[i] * kLog2E);
    to.delta[i] = 0;
    if (empty) continue;
    Vec<T> sum{};
    for (int64_t c = 0; c < s.valueDepth; c += Simd<T>::width)
      sum += load(to.doutRows + i * valueCols + c) * loadPart<T>(out + i * t.outRow + c, s.valueDepth - c);
    for (int lane = 0; lane < Simd<T>::width; lane++) to.delta[i] += sum[lane];
    if (dlse) to.delta[i] -= static_cast<T>(dlse[i]);
  }
}

/// Which keys j of a block a query i of another sees: low <= j - i < high, of its own segment.
template <class T>
struct Sight {
  int64_t low, high;
  const int32_t* querySegments = nullptr;  // null where segments need no look
  SegmentLanes<T> keySegments;
};

/// Scores become weights, and the gradient of the weights (dp) that of the scores.
template <class T, bool masked, bool segmented>
void weighBlock(T* scores, T* dp, const QueryBlock<T>& block, int64_t queries, int64_t keys,
                const Sight<T>& sight) {
  constexpr int64_t width = Simd<T>::width;
  for (int64_t i = 0; i < queries; i++) {
    const Vec<T> lse = splat(block.lse[i]), delta = splat(block.delta[i]);
    T* row = scores + i * kBlock;
    T* dRow = dp + i * kBlock;
    const typename Simd<T>::Mask own = typename Simd<T>::Mask{} + (segmented ? sight.querySegments[i] : 0);
    for (int64_t j = 0; j < keys; j += width) {
      Vec<T> p = exp2(load(row + j) - lse);
      if (masked) {
        p = lanes<T>(j - i - sight.high) < 0 ? p : Vec<T>{};
        p = lanes<T>(j - i - sight.low) < 0 ? Vec<T>{} : p;
      }
      if (segmented) p = sight.keySegments.at(j) == own ? p : Vec<T>{};
      store(row + j, p);
      store(dRow + j, p * (load(dRow + j) - delta));
    }
  }
}

template <class T>
struct KeyBlock {
  T* k;       // [depth][64]
  T* rows;    // [64][depth padded]
  T* v;       // [valueDepth][64]
  T* scores;  // [64][64], queries by keys
  T* dp;

  static int64_t items(const AttentionShape& s) {
    return kBlock * (s.depth + attentionPadded(s.depth) + s.valueDepth + 2 * kBlock);
  }
  KeyBlock(const AttentionShape& s, T* at) {
    k = at;
    rows = k + kBlock * s.depth;
    v = rows + kBlock * attentionPadded(s.depth);
    scores = v + kBlock * s.valueDepth;
    dp = scores + kBlock * kBlock;
  }
};

int64_t keyBlocksOf(const AttentionShape& s, int64_t first, int64_t step) {
  return (attentionBlocks(s.keys) - first + step - 1) / step;
}

/// One block of queries against one of keys.
template <class T, class S>
void gradBlock(const AttentionShape& s, const AttentionGradTask& t, const QueryBlock<T>& query,
               const KeyBlock<T>& key, int64_t head, int64_t first, int64_t queries, int64_t firstKey,
               int64_t keys, T* dk, T* dv, T* dq) {
  Sight<T> sight;
  if (t.querySegments) {
    const SegmentRange own(t.querySegments + first, queries), other(t.keySegments + firstKey, keys);
    if (own.isApart(other)) return;
    if (!own.isOne(other)) {
      sight.querySegments = t.querySegments + first;
      sight.keySegments.set(t.keySegments + firstKey, keys);
    }
  }
  AttentionBias bias = attentionBiasFrom(t.bias, first, firstKey);
  if (bias.data) bias.data += head * t.biasHead * bias.itemBytes;
  if (hidesAll(bias, queries, keys)) return;
  const int64_t cols = attentionPadded(s.depth), valueCols = attentionPadded(s.valueDepth);
  const int64_t rows = (queries + 7) / 8 * 8, keyLanes = attentionPadded(keys), keyRows = (keys + 7) / 8 * 8;
  score<T, S>(rows, keyLanes, s.depth, query.q, key.k, key.scores, static_cast<T>(s.scale * kLog2E));
  score<T, S>(rows, keyLanes, s.valueDepth, query.dout, key.v, key.dp, T(1));
  if (bias.data)
    withBiasType<T>(bias.dtype, [&](auto* type) {
      addBiasByQuery(key.scores, bias, reinterpret_cast<decltype(type)>(bias.data), queries, keys, query.lse);
    });
  // Bounds that no pair of the blocks reaches are drawn near, for lanes are numbered in few bits.
  const int64_t end = first + s.offset + 1 - firstKey, far = 2 * kBlock;
  sight.high = s.causal ? least(end, far) : far;
  sight.low = s.window > 0 ? most(end - s.window, -far) : -far;
  if (sight.querySegments)
    weighBlock<T, true, true>(key.scores, key.dp, query, queries, keyLanes, sight);
  else if (keys > sight.high || -queries < sight.low)
    weighBlock<T, true, false>(key.scores, key.dp, query, rows, keyLanes, sight);
  else
    weighBlock<T, false, false>(key.scores, key.dp, query, rows, keyLanes, sight);
  if (t.dbias.data)
    addBiasGrad(
        static_cast<T*>(t.dbias.data) + head * t.dbias.head + first * t.dbias.row + firstKey * t.dbias.col,
        t.dbias, key.dp, queries, keys);
  product<T, true, true>(keyRows, valueCols, rows, key.scores, kBlock, query.doutRows, valueCols, dv,
                         valueCols);
  product<T, true, true>(keyRows, cols, rows, key.dp, kBlock, query.rows, cols, dk, cols);
  product<T, false, true>(rows, cols, keys, key.dp, kBlock, key.rows, cols, dq, cols);
}

template <class T, class S>
void gradTyped(const AttentionShape& s, const AttentionGradTask& t, const S*, T) {
  const int64_t heads = s.heads / s.groups, queryBlocks = attentionBlocks(s.queries);
  const int64_t cols = attentionPadded(s.depth), valueCols = attentionPadded(s.valueDepth);
  const int64_t dqHead = queryBlocks * kBlock * cols, tile = kBlock * (cols + valueCols);
  T* blocks = reinterpret_cast<T*>(t.scratch);
  const KeyBlock<T> key(s, blocks + queryBlocks * QueryBlock<T>::items(s));
  T* tiles = key.dp + kBlock * kBlock;  // of dk and dv, kept from head to head where there is more than one
  T* dqSums = static_cast<T*>(t.dq);
  __builtin_memset(dqSums, 0, static_cast<size_t>(heads * dqHead) * sizeof(T));

  for (int64_t h = 0; h < heads; h++) {
    for (int64_t i = 0; i < queryBlocks; i++)
      packQueries<T, S>(s, t, h, i * kBlock, least(kBlock, s.queries - i * kBlock),
                        QueryBlock<T>(s, blocks, i));
    for (int64_t n = 0, j0 = t.firstKeyBlock * kBlock; j0 < s.keys; n++, j0 += t.keyStep * kBlock) {
      const int64_t keys = least(kBlock, s.keys - j0);
      const S* k = static_cast<const S*>(t.k) + j0 * t.kRow;
      const S* v = static_cast<const S*>(t.v) + j0 * t.vRow;
      packScored<T>(key.k, k, t.kRow, keys, s.depth, kBlock, T(1));
      packScored<T>(key.v, v, t.vRow, keys, s.valueDepth, kBlock, T(1));
      packRows<T>(key.rows, cols, k, t.kRow, keys, s.depth, cols);
      T* dk = tiles + (heads > 1 ? n : 0) * tile;
      T* dv = dk + kBlock * cols;
      if (h == 0) __builtin_memset(dk, 0, static_cast<size_t>(tile) * sizeof(T));
      const int64_t firstSeeing = s.causal ? most(0, j0 - s.offset) : 0;
      const int64_t endSeeing = s.window > 0 ? most(0, j0 + keys - 1 + s.window - s.offset) : s.queries;
      for (int64_t i = firstSeeing / kBlock; i < queryBlocks && i * kBlock < endSeeing; i++)
        gradBlock<T, S>(s, t, QueryBlock<T>(s, blocks, i), key, h, i * kBlock,
                        least(kBlock, s.queries - i * kBlock), j0, keys, dk, dv,
                        dqSums + h * dqHead + i * kBlock * cols);
      if (h + 1 < heads) continue;
      S* dkTo = static_cast<S*>(t.dk) + j0 * s.depth;
      S* dvTo = static_cast<S*>(t.dv) + j0 * s.valueDepth;
      for (int64_t r = 0; r < keys; r++) {
        storeRow(dkTo + r * s.depth, dk + r * cols, static_cast<T>(s.scale), s.depth);
        storeRow(dvTo + r * s.valueDepth, dv + r * valueCols, T(1), s.valueDepth);
      }
    }
  }
}

template <class T, class S>
void gradQueriesTyped(const AttentionShape& s, const T* sums, int64_t parts, int64_t partStride,
                      int64_t count, S* dq) {
  const int64_t cols = attentionPadded(s.depth);
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < s.depth; c += Simd<T>::width) {
      Vec<T> sum = load(sums + i * cols + c);
      for (int64_t part = 1; part < parts; part++) sum += load(sums + part * partStride + i * cols + c);
      storePart<T>(dq + i * s.depth + c, sum * static_cast<T>(s.scale), s.depth - c);
    }
}

template <class S>
S* writable(void* p, const S*) {
  return static_cast<S*>(p);
}

}  // namespace

size_t attentionGradScratch(const AttentionShape& s, int64_t keyStep) {
  const int64_t tiles = s.heads > s.groups ? keyBlocksOf(s, 0, keyStep) : 1;
  const int64_t items = attentionBlocks(s.queries) * QueryBlock<float>::items(s) + KeyBlock<float>::items(s) +
                        tiles * kBlock * (attentionPadded(s.depth) + attentionPadded(s.valueDepth));
  return static_cast<size_t>(items) * attentionWorkBytes(s.dtype);
}

void attentionGrad(const AttentionShape& s, const AttentionGradTask& task) {
  withTypes(s.dtype, [&](auto* storage, auto zero) { gradTyped(s, task, storage, zero); });
}

void attentionGradQueries(const AttentionShape& s, const void* sums, int64_t parts, int64_t partStride,
                          int64_t count, void* dq) {
  withTypes(s.dtype, [&](auto* storage, auto zero) {
    using T = decltype(zero);
    gradQueriesTyped(s, static_cast<const T*>(sums), parts, partStride, count, writable(dq, storage));
  });
}

}  // namespace lazuli::LAZULI_ISA
