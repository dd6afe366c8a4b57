// Attention of every dtype and head size, tile by tile in what the dtype accumulates in: what the tensor
// cores' kernels (attention_forward.cu, attention_backward.cu) are measured against, and what runs where they
// do not: float32, float64, other head sizes. Of the gradient each of dq, dk and dv has a kernel, which
// computes the weights again.

#include "attention.h"
#include "attention_seen.h"
#include "dtype.h"

namespace lazuli::cuda {
namespace {

LAZULI_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LAZULI_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

constexpr int kChunk = 32;  // columns of an operand in shared memory

/// Rows of an operand that a tile is about: those from `first` on, of `count`.
template <class T>
struct TileRows {
  const T* data;
  long long stride;
  int first, count, width;

  template <int kRows, class A>
  LAZULI_DEVICE void loadChunk(A (&to)[kRows][kChunk + 1], int column) const {
    for (int at = static_cast<int>(threadIdx.x); at < kRows * kChunk; at += 256) {
      const int row = at / kChunk, c = at % kChunk;
      const bool there = first + row < count && column + c < width;
      to[row][c] = there ? static_cast<A>(load(data[(first + row) * stride + column + c])) : A(0);
    }
  }
};

template <class T>
struct Simple {
  using A = Accumulator<T>;
  static constexpr int kTile = simpleTile(sizeof(A) == 8);
  static constexpr int kMicro =
      kTile / 16;  // of a thread, in both directions: rows side by side, columns 16 apart
  static constexpr int kOut = kSimpleColumns / 16;

  struct Shared {
    A left[kTile][kChunk + 1], right[kTile][kChunk + 1], weights[kTile][kTile + 1];
  };

  /// sums[row][column] += dot of a left row and a right row.
  LAZULI_DEVICE static void dots(Shared& shared, const TileRows<T>& left, const TileRows<T>& right,
                                 A (&sums)[kMicro][kMicro]) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int column = 0; column < left.width; column += kChunk) {
      __syncthreads();
      left.loadChunk(shared.left, column);
      right.loadChunk(shared.right, column);
      __syncthreads();
      // Eight at a time, added up on their own: that rounds less than one long sum.
      for (int d = 0; d < kChunk; d += 8) {
        A part[kMicro][kMicro] = {};
#pragma unroll
        for (int e = d; e < d + 8; ++e) {
          A a[kMicro], b[kMicro];
#pragma unroll
          for (int i = 0; i < kMicro; ++i)
            a[i] = shared.left[y * kMicro + i][e], b[i] = shared.right[x + 16 * i][e];
#pragma unroll
          for (int i = 0; i < kMicro; ++i)
#pragma unroll
            for (int j = 0; j < kMicro; ++j) part[i][j] = fused(a[i], b[j], part[i][j]);
        }
#pragma unroll
        for (int i = 0; i < kMicro; ++i)
#pragma unroll
          for (int j = 0; j < kMicro; ++j) sums[i][j] += part[i][j];
      }
    }
  }

  /// out[row][column] += weights[row] times the values' columns from `column` on.
  LAZULI_DEVICE static void weigh(Shared& shared, const A (&weights)[kMicro][kMicro],
                                  const TileRows<T>& values, int column, A (&out)[kMicro][kOut]) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < kMicro; ++i)
#pragma unroll
      for (int j = 0; j < kMicro; ++j) shared.weights[y * kMicro + i][x + 16 * j] = weights[i][j];
#pragma unroll
    for (int chunk = 0; chunk < kSimpleColumns / kChunk; ++chunk) {
      if (column + chunk * kChunk >= values.width) break;
      __syncthreads();
      values.loadChunk(shared.right, column + chunk * kChunk);
      __syncthreads();
#pragma unroll 8
      for (int r = 0; r < kTile; ++r) {
        const A v0 = shared.right[r][x], v1 = shared.right[r][x + 16];
#pragma unroll
        for (int i = 0; i < kMicro; ++i) {
          const A weight = shared.weights[y * kMicro + i][r];
          out[i][chunk * 2] = fused(weight, v0, out[i][chunk * 2]);
          out[i][chunk * 2 + 1] = fused(weight, v1, out[i][chunk * 2 + 1]);
        }
      }
    }
  }

  /// To the rows from `first` on of a head, of `count`.
  LAZULI_DEVICE static void store(const AttentionResult& to, const HeadTile& at, int first, int count,
                                  int width, int column, const A (&out)[kMicro][kOut]) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    T* rows = rowsOf<T>(to, at.batch, at.head) + first * to.row;
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
      if (first + y * kMicro + i >= count) break;
#pragma unroll
      for (int j = 0; j < kOut; ++j) {
        const int c = column + j / 2 * kChunk + j % 2 * 16 + x;
        if (c < width) cuda::store(rows + (y * kMicro + i) * to.row + c, out[i][j]);
      }
    }
  }
};

template <class A>
LAZULI_DEVICE A larger(A a, A b) {
  return b > a ? b : a;
}
/// Of the 16 threads that have a row.
template <class A>
LAZULI_DEVICE A rowTop(A x) {
#pragma unroll
  for (int lanes = 8; lanes; lanes /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}
template <class A>
LAZULI_DEVICE A rowSum(A x) {
#pragma unroll
  for (int lanes = 8; lanes; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

LAZULI_DEVICE bool sees(const AttentionArgs& args, const Band& band, int batch, int query, int key) {
  if (query >= args.queries || key >= args.keys || !band.has(query, key)) return false;
  return !args.querySegments ||
         __ldg(args.querySegments + static_cast<long long>(batch) * args.queries + query) ==
             __ldg(args.keySegments + static_cast<long long>(batch) * args.keys + key);
}

/// A score, scaled, with what the bias adds.
template <class A>
LAZULI_DEVICE A biased(const AttentionArgs& args, int batch, int head, int query, int key, A dot, A scale) {
  const AttentionBiasArg& bias = args.bias;
  if (bias.kind == AttentionBiasArg::none) return dot * scale;
  const long long at = batch * bias.batch + head * bias.head + query * bias.row + key * bias.column;
  switch (bias.kind) {
    case AttentionBiasArg::boolean:
      return static_cast<const uint8_t*>(bias.data)[at] ? dot * scale : lowest<A>();
    case AttentionBiasArg::f32:
      return fused(dot, scale, static_cast<A>(static_cast<const float*>(bias.data)[at]));
    case AttentionBiasArg::f64:
      return fused(dot, scale, static_cast<A>(static_cast<const double*>(bias.data)[at]));
    case AttentionBiasArg::bf16:
      return fused(dot, scale, static_cast<A>(load(static_cast<const BFloat16*>(bias.data)[at])));
    default:
      return fused(dot, scale, static_cast<A>(load(static_cast<const Float16*>(bias.data)[at])));
  }
}

template <class T>
LAZULI_DEVICE void simpleForward(const AttentionArgs& args) {
  using S = Simple<T>;
  using A = typename S::A;
  LAZULI_SHARED typename S::Shared shared;
  const HeadTile at = headTileOf(args.queries, S::kTile, args.heads, true);
  const int group = at.head / (args.heads / args.groups), first = at.tile * S::kTile;
  const int column = static_cast<int>(blockIdx.y) * kSimpleColumns;
  const int x = threadIdx.x % 16, row = first + threadIdx.x / 16 * S::kMicro;
  const TileRows<T> q{rowsOf<T>(args.q, at.batch, at.head), args.q.row, first, args.queries, args.depth};
  const Band band = bandOf(args);
  const Range keys = keysOf(args, band, first, min(first + S::kTile, args.queries));
  // Scores are scaled where they become weights, but for those that a bias is added to.
  const bool hasBias = args.bias.kind != AttentionBiasArg::none;
  const A sign = args.scale < 0 ? -1 : 1, scale = hasBias ? A(1) : static_cast<A>(args.scale) * sign;
  A out[S::kMicro][S::kOut] = {}, top[S::kMicro], sum[S::kMicro] = {};
#pragma unroll
  for (int i = 0; i < S::kMicro; ++i) top[i] = lowest<A>();
  for (int key = keys.first / S::kTile * S::kTile; key < keys.last; key += S::kTile) {
    const TileRows<T> k{rowsOf<T>(args.k, at.batch, group), args.k.row, key, args.keys, args.depth};
    const TileRows<T> v{rowsOf<T>(args.v, at.batch, group), args.v.row, key, args.keys, args.valueDepth};
    A s[S::kMicro][S::kMicro] = {};
    S::dots(shared, q, k, s);
#pragma unroll
    for (int i = 0; i < S::kMicro; ++i) {
      A highest = lowest<A>();
#pragma unroll
      for (int j = 0; j < S::kMicro; ++j) {
        const int j0 = key + x + 16 * j;
        if (!sees(args, band, at.batch, row + i, j0))
          s[i][j] = lowest<A>();
        else
          s[i][j] = hasBias
                        ? biased(args, at.batch, at.head, row + i, j0, s[i][j], static_cast<A>(args.scale))
                        : s[i][j] * sign;
        highest = larger(highest, s[i][j]);
      }
      highest = rowTop(highest);
      highest = larger(top[i], highest == lowest<A>() ? highest : highest * scale);
      const A base = highest == lowest<A>() ? A(0) : highest, kept = exp_of(top[i] - base);
      A added = 0;
      // In one rounding: that of the base is the same for the whole row.
#pragma unroll
      for (int j = 0; j < S::kMicro; ++j)
        added += s[i][j] = s[i][j] == lowest<A>() ? A(0) : exp_of(fused(s[i][j], scale, -base));
      top[i] = highest;
      sum[i] = sum[i] * kept + rowSum(added);
#pragma unroll
      for (int j = 0; j < S::kOut; ++j) out[i][j] *= kept;
    }
    S::weigh(shared, s, v, column, out);
  }
  const long long head = static_cast<long long>(at.batch) * args.heads + at.head;
#pragma unroll
  for (int i = 0; i < S::kMicro; ++i) {
    const A each = sum[i] > 0 ? 1 / sum[i] : A(0);
#pragma unroll
    for (int j = 0; j < S::kOut; ++j) out[i][j] *= each;
    if (x == 0 && column == 0 && row + i < args.queries)
      args.lse[head * args.queries + row + i] =
          static_cast<float>(sum[i] == 0 ? lowest<A>() : top[i] + log_of(sum[i]));
  }
  S::store(args.result, at, first, args.queries, args.valueDepth, column, out);
}

/// delta = sum(out * dout) - dlse: a warp a row.
template <class T>
LAZULI_DEVICE void attentionDelta(const AttentionArgs& args) {
  using A = Accumulator<T>;
  const long long row = static_cast<long long>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= static_cast<long long>(args.batch) * args.heads * args.queries) return;
  const int query = static_cast<int>(row % args.queries),
            head = static_cast<int>(row / args.queries % args.heads);
  const int batch = static_cast<int>(row / args.queries / args.heads);
  const T* out = rowsOf<T>(args.out, batch, head) + query * args.out.row;
  const T* dout = rowsOf<T>(args.dout, batch, head) + query * args.dout.row;
  A sum = 0;
  for (int d = threadIdx.x % 32; d < args.valueDepth; d += 32)
    sum += static_cast<A>(load(out[d])) * static_cast<A>(load(dout[d]));
#pragma unroll
  for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (threadIdx.x % 32 == 0) static_cast<A*>(args.delta)[row] = args.dlse ? sum - args.dlse[row] : sum;
}

/// The weights of a tile in s, of which row i is a query (or, kByKey, a key) and column j the other;
/// kGradient: the gradients of the scores, times `factor`.
template <class T, bool kByKey, bool kGradient>
LAZULI_DEVICE void backwardWeights(typename Simple<T>::Shared& shared, const AttentionArgs& args,
                                   const Band& band, int batch, int head, int group, int query, int key,
                                   Accumulator<T> factor,
                                   Accumulator<T> (&s)[Simple<T>::kMicro][Simple<T>::kMicro]) {
  using S = Simple<T>;
  using A = typename S::A;
  const TileRows<T> q{rowsOf<T>(args.q, batch, head), args.q.row, query, args.queries, args.depth};
  const TileRows<T> k{rowsOf<T>(args.k, batch, group), args.k.row, key, args.keys, args.depth};
  const TileRows<T> v{rowsOf<T>(args.v, batch, group), args.v.row, key, args.keys, args.valueDepth};
  const TileRows<T> dout{rowsOf<T>(args.dout, batch, head), args.dout.row, query, args.queries,
                         args.valueDepth};
  A ds[S::kMicro][S::kMicro] = {};
#pragma unroll
  for (int i = 0; i < S::kMicro; ++i)
#pragma unroll
    for (int j = 0; j < S::kMicro; ++j) s[i][j] = 0;
  S::dots(shared, kByKey ? k : q, kByKey ? q : k, s);
  if (kGradient) S::dots(shared, kByKey ? v : dout, kByKey ? dout : v, ds);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16 * S::kMicro;
  const long long row = (static_cast<long long>(batch) * args.heads + head) * args.queries;
  const A scale = static_cast<A>(args.scale);
#pragma unroll
  for (int i = 0; i < S::kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < S::kMicro; ++j) {
      const int across = x + 16 * j;
      const int atQuery = query + (kByKey ? across : y + i), atKey = key + (kByKey ? y + i : across);
      A weight = 0;
      if (sees(args, band, batch, atQuery, atKey)) {
        const A lse = args.lse[row + atQuery];
        const A score = biased(args, batch, head, atQuery, atKey, s[i][j], scale);
        if (lse != lowest<A>() && score != lowest<A>()) weight = exp_of(score - lse);
        if (kGradient) weight *= (ds[i][j] - static_cast<const A*>(args.delta)[row + atQuery]) * factor;
      }
      s[i][j] = weight;
    }
  }
}

template <class T>
LAZULI_DEVICE void simpleQueries(const AttentionArgs& args) {
  using S = Simple<T>;
  using A = typename S::A;
  LAZULI_SHARED typename S::Shared shared;
  const HeadTile at = headTileOf(args.queries, S::kTile, args.heads, true);
  const int group = at.head / (args.heads / args.groups), first = at.tile * S::kTile;
  const int column = static_cast<int>(blockIdx.y) * kSimpleColumns;
  const Band band = bandOf(args);
  const Range keys = keysOf(args, band, first, min(first + S::kTile, args.queries));
  A out[S::kMicro][S::kOut] = {};
  for (int key = keys.first / S::kTile * S::kTile; key < keys.last; key += S::kTile) {
    A s[S::kMicro][S::kMicro];
    backwardWeights<T, false, true>(shared, args, band, at.batch, at.head, group, first, key,
                                    static_cast<A>(args.scale), s);
    S::weigh(shared, s, {rowsOf<T>(args.k, at.batch, group), args.k.row, key, args.keys, args.depth}, column,
             out);
  }
  S::store(args.dq, at, first, args.queries, args.depth, column, out);
}

/// dk, or dv: summed over the heads of a group, one after the other.
template <class T, bool kKeys>
LAZULI_DEVICE void simpleKeys(const AttentionArgs& args) {
  using S = Simple<T>;
  using A = typename S::A;
  LAZULI_SHARED typename S::Shared shared;
  const HeadTile at = headTileOf(args.keys, S::kTile, args.groups, false);
  const int group = at.head, heads = args.heads / args.groups, first = at.tile * S::kTile;
  const int column = static_cast<int>(blockIdx.y) * kSimpleColumns;
  const Band band = bandOf(args);
  const Range queries = queriesOf(args, band, first, min(first + S::kTile, args.keys));
  A out[S::kMicro][S::kOut] = {};
  for (int head = group * heads; head < (group + 1) * heads; ++head) {
    for (int query = queries.first / S::kTile * S::kTile; query < queries.last; query += S::kTile) {
      A s[S::kMicro][S::kMicro];
      backwardWeights<T, true, kKeys>(shared, args, band, at.batch, head, group, query, first,
                                      static_cast<A>(args.scale), s);
      const AttentionTensor& values = kKeys ? args.q : args.dout;
      S::weigh(shared, s,
               {rowsOf<T>(values, at.batch, head), values.row, query, args.queries,
                kKeys ? args.depth : args.valueDepth},
               column, out);
    }
  }
  S::store(kKeys ? args.dk : args.dv, at, first, args.keys, kKeys ? args.depth : args.valueDepth, column,
           out);
}

/// The bias's gradient: a block has a tile of it and goes over all that share it.
template <class T>
LAZULI_DEVICE void simpleBias(const AttentionArgs& args) {
  using S = Simple<T>;
  using A = typename S::A;
  LAZULI_SHARED typename S::Shared shared;
  const int queryTiles = (args.queries + S::kTile - 1) / S::kTile,
            keyTiles = (args.keys + S::kTile - 1) / S::kTile;
  int rest = static_cast<int>(blockIdx.x);
  const auto part = [&](bool whole, int count) {
    const int at = whole ? rest % count : 0;
    if (whole) rest /= count;
    return Range{at, whole ? at + 1 : count};
  };
  const Range keys = part(args.dbiasKeys, keyTiles), queries = part(args.dbiasQueries, queryTiles);
  const Range heads = part(args.dbiasHeads, args.heads), batches = part(args.dbiasBatch, args.batch);
  const Band band = bandOf(args);
  A sums[S::kMicro][S::kMicro] = {};
  for (int batch = batches.first; batch < batches.last; ++batch)
    for (int head = heads.first; head < heads.last; ++head)
      for (int i = queries.first; i < queries.last; ++i)
        for (int j = keys.first; j < keys.last; ++j) {
          const Range seen = keysOf(args, band, i * S::kTile, min((i + 1) * S::kTile, args.queries));
          if (j * S::kTile >= seen.last || (j + 1) * S::kTile <= seen.first) continue;
          A s[S::kMicro][S::kMicro];
          backwardWeights<T, false, true>(shared, args, band, batch, head, head / (args.heads / args.groups),
                                          i * S::kTile, j * S::kTile, A(1), s);
#pragma unroll
          for (int a = 0; a < S::kMicro; ++a)
#pragma unroll
            for (int b = 0; b < S::kMicro; ++b) sums[a][b] += s[a][b];
        }
  const int x = threadIdx.x % 16, y = threadIdx.x / 16 * S::kMicro;
  __syncthreads();
#pragma unroll
  for (int a = 0; a < S::kMicro; ++a)
#pragma unroll
    for (int b = 0; b < S::kMicro; ++b) shared.weights[y + a][x + 16 * b] = sums[a][b];
  __syncthreads();
  // A dim that is shared is summed up, one after the other.
  const int rows = args.dbiasQueries ? min(S::kTile, args.queries - queries.first * S::kTile) : 1;
  const int columns = args.dbiasKeys ? min(S::kTile, args.keys - keys.first * S::kTile) : 1;
  const int down = args.dbiasQueries ? 1 : S::kTile, across = args.dbiasKeys ? 1 : S::kTile;
  const long long width = args.dbiasKeys ? args.keys : 1, height = args.dbiasQueries ? args.queries : 1;
  const long long slab =
      static_cast<long long>(args.dbiasBatch ? batches.first : 0) * (args.dbiasHeads ? args.heads : 1) +
      (args.dbiasHeads ? heads.first : 0);
  for (int at = static_cast<int>(threadIdx.x); at < rows * columns; at += 256) {
    const int row = at / columns, column = at % columns;
    A sum = 0;
    for (int a = row; a < row + down; ++a)
      for (int b = column; b < column + across; ++b) sum += shared.weights[a][b];
    const long long i = args.dbiasQueries ? queries.first * S::kTile + row : 0;
    const long long j = args.dbiasKeys ? keys.first * S::kTile + column : 0;
    static_cast<A*>(args.dbias)[(slab * height + i) * width + j] = sum;
  }
}

}  // namespace

#define LAZULI_ATTENTION_SIMPLE(suffix, T)                                                               \
  LAZULI_KERNEL(lazuli_attention_simple_##suffix, AttentionArgs, 256) { simpleForward<T>(args); }        \
  LAZULI_KERNEL(lazuli_attention_delta_##suffix, AttentionArgs, 256) { attentionDelta<T>(args); }        \
  LAZULI_KERNEL(lazuli_attention_simple_dq_##suffix, AttentionArgs, 256) { simpleQueries<T>(args); }     \
  LAZULI_KERNEL(lazuli_attention_simple_dk_##suffix, AttentionArgs, 256) { simpleKeys<T, true>(args); }  \
  LAZULI_KERNEL(lazuli_attention_simple_dv_##suffix, AttentionArgs, 256) { simpleKeys<T, false>(args); } \
  LAZULI_KERNEL(lazuli_attention_simple_dbias_##suffix, AttentionArgs, 256) { simpleBias<T>(args); }
LAZULI_FLOATS(LAZULI_ATTENTION_SIMPLE)

}  // namespace lazuli::cuda
