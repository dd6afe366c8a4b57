#pragma once

// Rows of unit stride, each worked on by a group of threads: a part of a warp, or a block.

#include "dtype.h"
#include "row_shape.h"

namespace lazuli::cuda {

struct Sum {
  template <class A>
  static LAZULI_DEVICE A of(A a, A b) {
    return a + b;
  }
};
/// Passes NaN over.
struct Largest {
  template <class A>
  static LAZULI_DEVICE A of(A a, A b) {
    return b > a ? b : a;
  }
};

/// The threads that share a row: `lanes` of them, a power of two up to a warp, or the block's warps.
struct Group {
  int lanes, lane;
  int64_t row;  // the first that is the group's
  int turn = 0;

  LAZULI_DEVICE explicit Group(int lanes)
      : lanes(lanes),
        lane(static_cast<int>(threadIdx.x) & (lanes <= 32 ? lanes - 1 : 1023)),
        row(lanes <= 32 ? static_cast<int64_t>(blockIdx.x) * (static_cast<int>(blockDim.x) / lanes) +
                              static_cast<int>(threadIdx.x) / lanes
                        : static_cast<int64_t>(blockIdx.x)) {}

  /// `value` of all the group's threads, combined in one order, for each of them. Every thread of the block
  /// comes here.
  template <class Op, class A>
  LAZULI_DEVICE A all(A value, A identity) {
    for (int step = (lanes < 32 ? lanes : 32) / 2; step > 0; step /= 2)
      value = Op::of(value, __shfl_xor_sync(0xffffffffu, value, step));
    if (lanes <= 32) return value;
    // Two rooms in turn: what is read after one barrier is written again after the next.
    LAZULI_SHARED A rooms[2][32];
    A* room = rooms[turn];
    turn ^= 1;
    const int inWarp = lane & 31;
    if (inWarp == 0) room[lane >> 5] = value;
    __syncthreads();
    value = inWarp < lanes >> 5 ? room[inWarp] : identity;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = Op::of(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
  }
  template <class A>
  LAZULI_DEVICE A sum(A value) {
    return all<Sum>(value, A(0));
  }
  template <class A>
  LAZULI_DEVICE A largest(A value) {
    return all<Largest>(value, lowest<A>());
  }
};

/// What counts the elements of a row.
template <bool kWhole>
struct RowIndexOf {
  using Type = int;
};
template <>
struct RowIndexOf<false> {
  using Type = int64_t;
};
template <bool kWhole>
using RowIndex = typename RowIndexOf<kWhole>::Type;

/// A thread's packs of a row. kWhole: it holds all of them in registers, so that the row is read once; else
/// as many at a time, and every pass reads the row again.
template <class T, int kPacks, bool kWhole>
struct RowReader {
  static constexpr int kCount = Pack<T>::kCount;
  using Index = RowIndex<kWhole>;

  const T* from;
  Index width;
  int lanes, lane;
  bool aligned;
  Pack<T> packs[kPacks];

  LAZULI_DEVICE RowReader(const Group& group, const T* from, int64_t width, bool aligned)
      : from(from), width(static_cast<Index>(width)), lanes(group.lanes), lane(group.lane), aligned(aligned) {
    if constexpr (kWhole) read(0);
  }
  LAZULI_DEVICE Index firstOf(Index start, int pack) const {
    return start + static_cast<Index>(pack * lanes + lane) * kCount;
  }
  LAZULI_DEVICE void read(Index start) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const Index first = firstOf(start, i);
      packs[i] = first < width ? loadPack(from, first, width, aligned) : Pack<T>{};
    }
  }
  LAZULI_DEVICE Index stride() const { return static_cast<Index>(lanes) * kCount * kPacks; }

  /// Elements of the pack at `first` that there are.
  LAZULI_DEVICE int left(Index first) const {
    return width - first < kCount ? static_cast<int>(width - first) : kCount;
  }

  /// body(first element, pack, number of the pack)
  template <class Body>
  LAZULI_DEVICE void eachPack(Body body) {
    for (Index start = 0; start < width; start += stride()) {
      if constexpr (!kWhole) read(start);
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        if (firstOf(start, i) < width) body(firstOf(start, i), packs[i], i);
      if constexpr (kWhole) return;
    }
  }
  /// body(element's value), of those there are
  template <class Body>
  LAZULI_DEVICE void each(Body body) {
    eachPack([&](Index first, const Pack<T>& pack, int) {
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        if (first + i < width) body(load(pack.at[i]));
    });
  }
};

/// body(first element, pack of a, pack of b, number of the pack) over two rows alike.
template <class T, int kPacks, bool kWhole, class Body>
LAZULI_DEVICE void eachPack(RowReader<T, kPacks, kWhole>& a, RowReader<T, kPacks, kWhole>& b, Body body) {
  for (RowIndex<kWhole> start = 0; start < a.width; start += a.stride()) {
    if constexpr (!kWhole) {
      a.read(start);
      b.read(start);
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i)
      if (a.firstOf(start, i) < a.width) body(a.firstOf(start, i), a.packs[i], b.packs[i], i);
    if constexpr (kWhole) return;
  }
}

}  // namespace lazuli::cuda
