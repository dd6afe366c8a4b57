#include "cumsum.h"
#include "rows.h"

namespace lazuli::cuda {

constexpr int kWarps = kScanThreads / 32;

/// The k-th element of a line, from the end it begins at.
LAZULI_DEVICE int64_t placeOf(const CumsumArgs& args, int64_t k) {
  return args.reverse ? args.length - 1 - k : k;
}

/// A chunk of a line, in what is accumulated in. Every thread has the sum.
template <class T>
LAZULI_DEVICE Accumulator<T> chunkTotal(const CumsumArgs& args, Group& group, const T* x, int64_t chunk) {
  const int64_t begin = chunk * args.chunkLength;
  const int64_t end = begin + args.chunkLength < args.length ? begin + args.chunkLength : args.length;
  Accumulator<T> sum = 0;
#pragma unroll 8
  for (int64_t k = begin + threadIdx.x; k < end; k += kScanThreads) sum += load(x[placeOf(args, k)]);
  return group.sum(sum);
}

/// inner is 1: a block a chunk.
template <class T>
LAZULI_DEVICE void lineTotals(const CumsumArgs& args) {
  Group group(kScanThreads);
  const T* x = static_cast<const T*>(args.x) + blockIdx.y * args.length;
  const Accumulator<T> sum = chunkTotal(args, group, x, blockIdx.x);
  if (threadIdx.x == 0)
    static_cast<Accumulator<T>*>(args.totals)[blockIdx.y * args.chunks + blockIdx.x] = sum;
}

/// In shared memory, so that neither rows nor a thread's items fall into one bank.
LAZULI_DEVICE int roomOf(int i) { return i + i / 32; }

template <class T>
LAZULI_DEVICE void scanLines(const CumsumArgs& args) {
  using A = Accumulator<T>;
  LAZULI_SHARED A tile[kScanTile + kScanTile / 32];
  LAZULI_SHARED A warps[kWarps];
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  Group group(kScanThreads);
  const int64_t line = blockIdx.y;
  const T* x = static_cast<const T*>(args.x) + line * args.length;
  T* y = static_cast<T*>(args.y) + line * args.length;
  A carry = 0;
  if (args.chunks > 1) {
    const A* totals = static_cast<const A*>(args.totals) + line * args.chunks;
    for (int64_t chunk = thread; chunk < blockIdx.x; chunk += kScanThreads) carry += totals[chunk];
    carry = group.sum(carry);
  }
  const int64_t begin = blockIdx.x * args.chunkLength;
  const int64_t end = begin + args.chunkLength < args.length ? begin + args.chunkLength : args.length;
  for (int64_t start = begin; start < end; start += kScanTile) {
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) {
      const int64_t k = start + i * kScanThreads + thread;
      tile[roomOf(i * kScanThreads + thread)] = k < end ? static_cast<A>(load(x[placeOf(args, k)])) : A(0);
    }
    __syncthreads();
    A items[kScanItems];
    A sum = 0;
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) {
      sum += tile[roomOf(thread * kScanItems + i)];
      items[i] = sum;
    }
    A before = sum;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const A other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    if (lane == 31) warps[warp] = before;
    before = __shfl_up_sync(0xffffffffu, before, 1);
    if (lane == 0) before = 0;
    __syncthreads();
    A total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) before += total;
      total += warps[w];
    }
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) tile[roomOf(thread * kScanItems + i)] = carry + (before + items[i]);
    carry += total;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kScanItems; ++i) {
      const int64_t k = start + i * kScanThreads + thread;
      if (k < end) store(y + placeOf(args, k), tile[roomOf(i * kScanThreads + thread)]);
    }
    __syncthreads();
  }
}

/// A thread a column of a chunk.
struct Column {
  int64_t outer, chunk, inner;
  bool is;

  LAZULI_DEVICE explicit Column(const CumsumArgs& args) {
    const Divided at =
        divide(static_cast<int64_t>(blockIdx.x) * static_cast<int>(blockDim.x) + threadIdx.x, args.inner);
    const Divided row = divide(at.quotient, args.chunks);
    outer = row.quotient;
    chunk = row.rest;
    inner = at.rest;
    is = outer < args.outer;
  }
};

template <class T, bool kTotals>
LAZULI_DEVICE void scanColumns(const CumsumArgs& args) {
  using A = Accumulator<T>;
  const Column column(args);
  if (!column.is) return;
  const int64_t begin = column.chunk * args.chunkLength;
  const int64_t end = begin + args.chunkLength < args.length ? begin + args.chunkLength : args.length;
  const int64_t first = column.outer * args.length * args.inner + column.inner;
  const T* x = static_cast<const T*>(args.x) + first;
  T* y = static_cast<T*>(args.y) + first;
  A* totals = static_cast<A*>(args.totals) + column.outer * args.chunks * args.inner + column.inner;
  A sum = 0;
  if (!kTotals)
    for (int64_t chunk = 0; chunk < column.chunk; ++chunk) sum += totals[chunk * args.inner];
  constexpr int kFlight = 8;
  for (int64_t k = begin; k < end; k += kFlight) {
    T items[kFlight];
#pragma unroll
    for (int i = 0; i < kFlight; ++i)
      if (k + i < end) items[i] = x[placeOf(args, k + i) * args.inner];
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
      if (k + i >= end) continue;
      sum += load(items[i]);
      if (!kTotals) store(y + placeOf(args, k + i) * args.inner, sum);
    }
  }
  if (kTotals) totals[column.chunk * args.inner] = sum;
}

#define LAZULI_CUMSUM(suffix, T)                                                                       \
  LAZULI_KERNEL(lazuli_cumsum_line_totals_##suffix, CumsumArgs, kScanThreads) { lineTotals<T>(args); } \
  LAZULI_KERNEL(lazuli_cumsum_lines_##suffix, CumsumArgs, kScanThreads) { scanLines<T>(args); }        \
  LAZULI_KERNEL(lazuli_cumsum_column_totals_##suffix, CumsumArgs, kScanThreads) {                      \
    scanColumns<T, true>(args);                                                                        \
  }                                                                                                    \
  LAZULI_KERNEL(lazuli_cumsum_columns_##suffix, CumsumArgs, kScanThreads) { scanColumns<T, false>(args); }
LAZULI_NUMBERS(LAZULI_CUMSUM)

}  // namespace lazuli::cuda
