#include "dtype.h"
#include "radix_sort.h"

namespace lazuli::cuda {

constexpr int kWarps = kRadixThreads / 32;

template <class Key>
LAZULI_DEVICE int digitOf(Key key, int shift) {
  return static_cast<int>(key >> shift & static_cast<Key>(kRadixDigits - 1));
}

template <class Key>
LAZULI_DEVICE void radixCount(const RadixArgs& args) {
  LAZULI_SHARED unsigned counts[kRadixDigits];
  const Key* keys = static_cast<const Key*>(args.keys) + blockIdx.y * args.n;
  counts[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRadixItems; ++i) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kRadixTile + i * kRadixThreads + threadIdx.x;
    if (at < args.n) atomicAdd(&counts[digitOf(keys[at], args.shift)], 1u);
  }
  __syncthreads();
  args.counts[(static_cast<int64_t>(blockIdx.y) * kRadixDigits + threadIdx.x) * args.blocks + blockIdx.x] =
      counts[threadIdx.x];
}

/// The sum of the lanes before, and its own, of each.
LAZULI_DEVICE unsigned scanWarp(unsigned value) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const unsigned before = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += before;
  }
  return value;
}

/// A block a line: its counts, digit by digit and in it block by block, become what is before them.
LAZULI_KERNEL(lazuli_radix_scan, RadixArgs, 1024) {
  LAZULI_SHARED unsigned totals[kRadixDigits], before[kRadixDigits];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  unsigned* counts = args.counts + static_cast<int64_t>(blockIdx.x) * kRadixDigits * args.blocks;
  for (int digit = warp; digit < kRadixDigits; digit += 32) {
    unsigned* row = counts + digit * args.blocks;
    unsigned carry = 0;
    for (int64_t first = 0; first < args.blocks; first += 32) {
      const int64_t at = first + lane;
      const unsigned count = at < args.blocks ? row[at] : 0;
      const unsigned sum = scanWarp(count);
      if (at < args.blocks) row[at] = carry + sum - count;
      carry += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) totals[digit] = carry;
  }
  __syncthreads();
  if (warp == 0) {
    unsigned carry = 0;
    for (int first = 0; first < kRadixDigits; first += 32) {
      const unsigned count = totals[first + lane], sum = scanWarp(count);
      before[first + lane] = carry + sum - count;
      carry += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  __syncthreads();
  for (int digit = warp; digit < kRadixDigits; digit += 32)
    for (int64_t at = lane; at < args.blocks; at += 32) counts[digit * args.blocks + at] += before[digit];
}

/// A warp's items are adjacent, 32 at a time, so that the lanes before one are the items before it.
template <class Key>
LAZULI_DEVICE void radixMove(const RadixArgs& args) {
  LAZULI_SHARED unsigned places[kWarps][kRadixDigits];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t line = static_cast<int64_t>(blockIdx.y) * args.n;
  const Key* keys = static_cast<const Key*>(args.keys) + line;
  Key* keysOut = static_cast<Key*>(args.keysOut) + line;
  for (int i = threadIdx.x; i < kWarps * kRadixDigits; i += kRadixThreads) (&places[0][0])[i] = 0;
  __syncthreads();
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kRadixTile + warp * (32 * kRadixItems) + lane;
  Key items[kRadixItems];
  unsigned ranks[kRadixItems];
#pragma unroll
  for (int i = 0; i < kRadixItems; ++i) items[i] = start + i * 32 < args.n ? keys[start + i * 32] : Key(0);
#pragma unroll
  for (int i = 0; i < kRadixItems; ++i) {
    const bool is = start + i * 32 < args.n;
    // One beyond the digits, for lanes that have none.
    const int digit = is ? digitOf(items[i], args.shift) : kRadixDigits;
    const unsigned peers = __match_any_sync(0xffffffffu, static_cast<unsigned>(digit));
    const unsigned before = __popc(peers & ((1u << lane) - 1));
    ranks[i] = is ? places[warp][digit] + before : 0;
    __syncwarp();
    if (is && before == 0) places[warp][digit] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  {
    unsigned place =
        args.counts[(static_cast<int64_t>(blockIdx.y) * kRadixDigits + threadIdx.x) * args.blocks +
                    blockIdx.x];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const unsigned count = places[w][threadIdx.x];
      places[w][threadIdx.x] = place;
      place += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRadixItems; ++i) {
    const int64_t at = start + i * 32;
    if (at >= args.n) continue;
    const int64_t to = places[warp][digitOf(items[i], args.shift)] + ranks[i];
    keysOut[to] = items[i];
    args.orderOut[line + to] = args.order[line + at];
  }
}

#define LAZULI_RADIX(bits, Key)                                                                 \
  LAZULI_KERNEL(lazuli_radix_count_##bits, RadixArgs, kRadixThreads) { radixCount<Key>(args); } \
  LAZULI_KERNEL(lazuli_radix_move_##bits, RadixArgs, kRadixThreads) { radixMove<Key>(args); }
LAZULI_RADIX(32, uint32_t)
LAZULI_RADIX(64, uint64_t)

}  // namespace lazuli::cuda
